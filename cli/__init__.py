"""The command line: one file per command group, which parses, calls and prints."""

import sys


def run() -> None:
    """Run ``csplade``; where only the client is installed, name the missing extra in one line."""
    try:
        from .main import main
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit(
            "csplade: the command line is not installed; install it: pip install 'csplade[server]'"
        )
    main()
