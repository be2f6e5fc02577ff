"""``python -m unjpeg``."""

from unjpeg.cli import main

if __name__ == "__main__":
    main()
