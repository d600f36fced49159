"""``python -m diffaug`` is the command ``diffaug``."""

from diffaug.cli import main

if __name__ == "__main__":
    main()
