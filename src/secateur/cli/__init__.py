"""The command line: parse, call, print. Every command is a thin door to one public function."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from secateur.allocator import keep_freed_memory
from secateur.cli.audit import audit
from secateur.cli.catalogue import card, doctor, init, methods
from secateur.cli.report import report
from secateur.cli.run import grid, run
from secateur.cli.status import status
from secateur.cli.store import store
from secateur.cli.terminal import STOPPED, look_in, out, say, say_stopped, told, two_stops
from secateur.cli.tune import tune
from secateur.errors import SecateurError, UsageError
from secateur.lab.ending import TERMINATED, ending

app = typer.Typer(
    name="secateur",
    help="Make a trained classifier forget chosen training data, and prove how well it did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


def main() -> None:
    """Run the command line. Exit codes: see ``secateur.errors``; 130 after Ctrl-C, 143 after SIGTERM."""
    # the console script, unlike "python -m", does not look in the working directory for a plan's own code;
    # looked at last, so that nothing installed is hidden
    look_in("")
    keep_freed_memory()
    with two_stops(), ending():
        _main()


def _main() -> None:
    try:
        ended = app(standalone_mode=False)
    except SecateurError as error:
        say(f"{_who()}: {told(error)}", bad=True)
        sys.exit(error.exit_code)
    except SystemExit as error:
        if error.code == TERMINATED:
            say(f"{_who()}: ended as asked; what was done is kept, and the same command goes on from there")
        raise
    except (KeyboardInterrupt, typer.Abort):
        ended = STOPPED
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # click's usage errors
            say(f"secateur: {error.format_message()}", bad=True)
            sys.exit(error.exit_code)
        raise
    if ended == STOPPED:  # typer turns Ctrl-C into this code
        say_stopped()
    sys.exit(ended if isinstance(ended, int) else 0)


def _who() -> str:
    """Who speaks: where torchrun started several processes, one of them."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    return f"secateur, rank {os.environ.get('RANK', 'unknown')}" if several else "secateur"


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
) -> None:
    """Make a trained classifier forget chosen training data, and prove how well it did."""
    if version:
        from secateur import __version__

        out.print(f"secateur {__version__}", highlight=False)
        raise typer.Exit
    if _who() != "secateur" and context.invoked_subcommand != "run":
        raise UsageError(
            f"expected torchrun to start `secateur run`, got `{context.invoked_subcommand}`: only a run is "
            "computed by several processes together; start this one by itself, and a grid with --jobs"
        )


for command in (run, grid, status, tune, audit, report, methods, card, init, doctor):  # as --help lists them
    app.command()(command)
app.add_typer(store)
