"""`python -m eef` runs the program `eef`."""

from eef.cli import main

if __name__ == "__main__":
    main()
