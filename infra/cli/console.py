"""Options that commands share, and their output: results on stdout, warnings and errors on stderr, as text or JSON."""

from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from pydantic import TypeAdapter, ValidationError

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.schemas.invalid import describe_invalid

_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def to_json(value: Any) -> str:
    """Return a value as one line of JSON: times in RFC 3339, ids and decimals as text."""
    return orjson.dumps(value, default=str, option=_OPTIONS).decode()


def print_result(value: Any, text: str, *, as_json: bool) -> None:
    """Print one result: `value` as a line of JSON, or `text`."""
    typer.echo(to_json(value) if as_json else text)


def print_warning(what: str, *, as_json: bool) -> None:
    """Print a problem that does not stop the command."""
    typer.echo(to_json({"warning": what}) if as_json else f"tradesaga: warning: {what}", err=True)


def print_error(error: CommandError, *, as_json: bool) -> int:
    """Print why a command failed and return its exit code."""
    typer.echo(to_json(error.as_json()) if as_json else f"tradesaga: {error}", err=True)
    return int(error.exit_code)


Directory = Annotated[
    Path | None, typer.Option("--dir", help="The stack's folder; default TRADESAGA_HOME or .tradesaga.")
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]

App = Annotated[
    list[str] | None,
    typer.Option(
        "--app",
        help="A module with sagas, participants and `services`; several separated by commas, or the option repeated.",
    ),
]

Reason = Annotated[str, typer.Option("--reason", "-m", help="The reason; it is recorded with the action.")]

Operator = Annotated[str | None, typer.Option("--operator", help="The operator's name; default $USER.")]


def parse_option(kind: Any, text: str, name: str, code: str = "usage") -> Any:
    """Return the text of an argument or option as a value of pydantic's type `kind`; `name` is what the user typed.

    Raises `CommandError` (exit 2) with `code`.
    """
    try:
        return TypeAdapter[Any](kind).validate_python(text)
    except ValidationError as error:
        what = f"{describe_invalid(error, name)}; got {text!r}"
        raise CommandError(code, what, "command line", f"correct {name}", ExitCode.USAGE) from error
