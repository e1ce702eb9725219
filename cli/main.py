"""``csplade``: loads each command when it is called, and turns errors into exit codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import typer
from typer.core import TyperGroup

from .. import __version__
from ..core.errors import CspladeError

# gRPC reads it when it is imported. Its log lines repeat, in C++ terms, what our errors say.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# command -> (module of csplade.cli, attribute: a typer.Typer or a function, help)
COMMANDS = {
    "demo": ("demo", "demo", "Index the example corpus and answer questions over gRPC."),
    "encode": ("encode", "encode", "Turn texts into sparse vectors, one JSON line each."),
    "index": ("index", "app", "Build, inspect and verify an index."),
    "search": ("search", "search", "Search an index without a server, one text or many."),
    "serve": ("serve", "serve", "Serve an index over gRPC."),
    "documents": ("documents", "app", "Write and read the documents of a running service."),
    "explore": ("explore", "explore", "Look at an index and its encoder in the browser."),
    "evaluate": ("evaluate", "evaluate", "Measure ranking quality on a BEIR-format collection."),
    "bench": ("bench", "app", "Measure speed side by side with named peers."),
    "loadtest": ("loadtest", "loadtest", "Load a running service and find its highest rate."),
    "plan": ("plan", "plan", "Plan bytes, shards, replicas and settings for a collection."),
    "quantize-report": (
        "quantize",
        "quantize_report",
        "Measure quality, speed and memory of each precision.",
    ),
    "model": ("model", "app", "Fetch, certify and inspect models."),
    "train": ("train", "app", "Adapt and train an encoder."),
    "study": ("study", "study", "Train small models and compare their design choices."),
}


class LazyGroup(TyperGroup):
    """Imports the module of a command when it is called, so that ``--help`` loads no torch."""

    def list_commands(self, ctx):  # type: ignore[no-untyped-def]
        """Return every command."""
        return list(COMMANDS)

    def get_command(self, ctx, name):  # type: ignore[no-untyped-def]
        """Import and return one command."""
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        target = getattr(import_module(f".{module}", __package__), attribute)
        if not isinstance(target, typer.Typer):
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(name)(target)
            target = app
        command = typer.main.get_command(target)
        command.name = name
        return command

    def format_commands(self, ctx, formatter):  # type: ignore[no-untyped-def]
        """Write the list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Learned sparse retrieval with causal language models: exact, explained, served over gRPC."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; exit with 0 on success, 1 on failure, 2 on wrong usage.

    A failure prints one line on stderr.
    """
    try:
        app()
    except CspladeError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))


def _fail(message: str) -> None:
    print(f"csplade: {message}", file=sys.stderr)
    sys.exit(1)
