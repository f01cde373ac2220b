"""How `nox -s docs` builds these pages; a warning is an error there."""

import re
from importlib.metadata import version as version_of
from typing import Any

from sphinx.application import Sphinx

project = "Savannah"
version = release = version_of("savannah")
project_copyright = "MIT licence"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4  # `page.md#a-heading`, as GitHub makes them
default_role = "code"  # docstrings quote names in single backticks
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"
napoleon_use_rtype = False
napoleon_use_ivar = True
maximum_signature_line_length = 88

html_theme = "alabaster"
html_theme_options = {
    "description": "An order desk that talks to customers by SMS",
    "fixed_sidebar": True,
    "page_width": "68rem",
    "sidebar_width": "17rem",
}
html_show_sourcelink = False


# A link from these pages to one beside the folder, such as the README, becomes a download here.
_OUTSIDE = re.compile(r"\]\(((?:\.\./)+[A-Z]+\.md)\)")


def _link_to_files(_app: Sphinx, _page: str, source: list[str]) -> None:
    source[0] = _OUTSIDE.sub(r"](path:\1)", source[0])


def _drop_made_docstring(
    _app: Sphinx, _what: str, name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """A dataclass without a docstring gets its signature for one, which is shown anyway."""
    if lines and lines[0].startswith(f"{name.rpartition('.')[2]}("):
        lines.clear()


def setup(app: Sphinx) -> None:
    app.connect("source-read", _link_to_files)
    app.connect("autodoc-process-docstring", _drop_made_docstring, priority=0)
