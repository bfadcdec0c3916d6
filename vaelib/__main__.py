"""``python -m vaelib``: the command of the package."""

from vaelib.cli import main

if __name__ == "__main__":
    main()
