"""Floor 5: the command line, one file per command group."""

import sys


def run() -> None:
    """The command ``csplade``; says in one line what is missing where only the client is installed."""
    try:
        from .main import main
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit(
            "csplade: the command line needs more than the client: pip install 'csplade[server]'"
        )
    main()
