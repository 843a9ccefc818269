"""`python -m mmjax` is `mmjax`."""

import sys

from mmjax import terminal


def main() -> int:
    """Runs the command line."""
    terminal.prepare()
    from mmjax.cli import main  # slow to import

    return main()


if __name__ == "__main__":
    sys.exit(main())
