"""``csplade``: the commands, each loaded only when it is called, and the one place where errors
become exit codes.
"""

from __future__ import annotations

import sys
from importlib import import_module

import typer
from typer.core import TyperGroup

from .. import __version__
from ..core.errors import CspladeError

# command -> (module below csplade.cli, attribute: a typer.Typer or a function, one-line help)
COMMANDS = {
    "demo": ("demo", "demo", "Index the example corpus and answer questions over gRPC."),
    "encode": ("encode", "encode", "Turn texts into sparse vectors, one JSON line each."),
    "index": ("index", "app", "Build, inspect and verify an index."),
    "search": ("search", "search", "Search an index without a server, one text or in bulk."),
    "serve": ("serve", "serve", "Serve an index over gRPC."),
    "evaluate": ("evaluate", "evaluate", "Measure ranking quality on a BEIR-format collection."),
    "bench": ("bench", "app", "Measure speed side by side with named peers."),
    "loadtest": ("loadtest", "loadtest", "Load a running service and find its knee."),
    "plan": ("plan", "plan", "Tell what a collection needs: bytes, shards, replicas, settings."),
    "quantize-report": (
        "quantize",
        "quantize_report",
        "Measure what each precision costs and saves.",
    ),
    "model": ("model", "app", "Pull, convert and inspect models."),
    "train": ("train", "app", "Adapt and train an encoder."),
    "study": ("study", "study", "Train small models and print what makes them good."),
}


class LazyGroup(TyperGroup):
    """Resolves a command by importing its module only then, so that ``csplade --help`` needs no
    torch.
    """

    def list_commands(self, ctx):  # type: ignore[no-untyped-def]
        """Every command, loaded or not."""
        return list(COMMANDS)

    def get_command(self, ctx, name):  # type: ignore[no-untyped-def]
        """The command itself, its module imported now."""
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
        """The list in the help, from the table alone."""
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
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    """Learned sparse retrieval with causal language models: exact, explained, served over gRPC."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line: exit code 0 fine, 1 failed (one line on stderr), 2 wrong usage."""
    try:
        app()
    except CspladeError as error:
        print(f"csplade: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        print(
            f"csplade: {error.strerror or error}: {error.filename or ''}".rstrip(": "),
            file=sys.stderr,
        )
        sys.exit(1)
