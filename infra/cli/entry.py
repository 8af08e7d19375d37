"""The console script `tradesaga`: finds sub-commands by entry point and prints errors as one sentence."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tradesaga.infra.cli.console import print_error, print_result
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.registry.app_modules import DISTRIBUTION, missing_extra

COMMANDS = "tradesaga.commands"


class _SortedGroup(TyperGroup):
    """Lists the commands by name, whichever package they come from."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx))


def main() -> None:
    """Run the command that the arguments name and exit with its code."""
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; an error is printed on stderr, as JSON with `--json`."""
    as_json = "--json" in arguments
    if broken := [word for word in arguments if not _is_text(word)]:
        what, do = "an argument is not text", "write it in UTF-8, without a NUL"
        return print_error(CommandError("usage", what, ascii(broken[0]), do, ExitCode.USAGE), as_json=as_json)
    try:
        code = _dispatch(arguments, as_json=as_json)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return _reader_gone()
    except typer.TyperException as error:
        if not error.format_message():  # without a command the help has been printed
            return ExitCode.USAGE
        return print_error(_misuse(error), as_json=as_json)
    except Exception as error:  # any other error becomes a sentence
        if os.environ.get("TRADESAGA_DEBUG"):
            raise
        return print_error(_described(error), as_json=as_json)
    return code if isinstance(code, int) else ExitCode.FINE


def _is_text(word: str) -> bool:
    """Return whether databases and terminals can store and show an argument."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in word


def _dispatch(arguments: Sequence[str], *, as_json: bool) -> Any:
    wanted = next((word for word in arguments if not word.startswith("-")), "")
    if not wanted and "--version" in arguments:
        return _show_version(as_json=as_json)
    return assemble(wanted)(args=list(arguments), prog_name="tradesaga", standalone_mode=False)


def assemble(wanted: str = "") -> typer.Typer:
    """Compose the commands of all installed packages; those that cannot be loaded are listed on stderr and left out.

    An entry point with the wanted command's name is loaded alone: a service must not import what other commands need.
    Commands of one module share a `typer.Typer`, which is registered under the name of each.
    Raises `CommandError` (exit 3) when the wanted command needs an extra that is not installed.
    """
    root = typer.Typer(
        cls=_SortedGroup, no_args_is_help=True, add_completion=False, help="Sagas for trades over Kafka and PostgreSQL."
    )
    root.callback()(_root_options)
    points = entry_points(group=COMMANDS)
    left_out: dict[str, list[str]] = {}
    shared: list[typer.Typer] = []
    for point in sorted(points.select(name=wanted) or points, key=lambda point: point.name):
        try:
            command = point.load()
        except (ImportError, AttributeError) as error:
            needed = missing_extra(error)
            if needed is not None and point.name == wanted:
                raise needed from error
            left_out.setdefault(str(error) if needed is None else needed.do, []).append(point.name)
            continue
        if isinstance(command, typer.Typer):
            if command not in shared:
                shared.append(command)
                root.add_typer(command)
        else:
            root.command(point.name)(command)
    for reason, names in left_out.items():
        if not wanted or wanted in names:
            typer.echo(f"tradesaga: not available here: {', '.join(names)}: {reason}", err=True)
    return root


def _root_options(
    *, version: Annotated[bool, typer.Option("--version", help="Print the version; with --json as JSON.")] = False
) -> None:
    """Sagas for trades over Kafka and PostgreSQL."""


def _show_version(*, as_json: bool) -> int:
    try:
        found = version(DISTRIBUTION)
    except PackageNotFoundError:
        found = "unknown"
    print_result({"version": found}, f"{DISTRIBUTION} {found}", as_json=as_json)
    return ExitCode.FINE


def _misuse(error: typer.TyperException) -> CommandError:
    """Return the error for wrong arguments, with the help page that explains them."""
    what = error.format_message().strip().splitlines()[0].rstrip(".")
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "tradesaga")
    return CommandError("usage", what, path, f"see `{path} --help`", ExitCode.USAGE)


def _described(error: Exception) -> CommandError:
    if isinstance(error, CommandError):
        return error
    if (needed := missing_extra(error)) is not None:
        return needed
    from tradesaga.infra.cli.failures import describe  # noqa: PLC0415  # the servers' clients load slowly

    return describe(error)


def _reader_gone() -> int:
    """Exit quietly when the reader of stdout (a pager, `head`) has ended; stdout must not be flushed again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.CHECK_FAILED


if __name__ == "__main__":
    main()
