"""`python -m savannah` is the command line."""

from savannah.entrypoints.cli import main

if __name__ == "__main__":
    main()
