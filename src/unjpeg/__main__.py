"""Where the command starts, installed or as ``python -m unjpeg``: Ctrl-C is clean from here on."""

from unjpeg.interrupts import take_over

__all__ = ["main"]


def main() -> None:
    """Run the command and exit with its code."""
    take_over()
    from unjpeg.cli import main as run

    run()


if __name__ == "__main__":
    main()
