"""What the checks of the deployment files share."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # so that every test finds `fresh_debian`
