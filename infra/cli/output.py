"""What commands print: results as text or, with `--json`, as JSON on stdout; warnings and errors on stderr."""

from typing import Any, Final

import orjson
import typer

from tradesaga.infra.errors import CommandError

_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def to_json(value: Any) -> str:
    """Return a value as one line of JSON: times in RFC 3339, ids and decimals as text."""
    return orjson.dumps(value, default=str, option=_OPTIONS).decode()


def print_result(value: Any, text: str, *, as_json: bool) -> None:
    """Print one result: `value` as a line of JSON, or `text`."""
    typer.echo(to_json(value) if as_json else text)


def print_warning(what: str, *, as_json: bool) -> None:
    """Print what does not stop the command but needs attention."""
    typer.echo(to_json({"warning": what}) if as_json else f"tradesaga: warning: {what}", err=True)


def print_error(error: CommandError, *, as_json: bool) -> int:
    """Print why a command failed and return its exit code."""
    typer.echo(to_json(error.as_json()) if as_json else f"tradesaga: {error}", err=True)
    return int(error.exit_code)
