"""Options that several commands share, and the check of what is given for one."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.schemas.invalid import describe_invalid

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
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; it is recorded with the decision.")]
Operator = Annotated[str | None, typer.Option("--operator", help="Who decides; default $USER.")]


def parse_option(kind: Any, text: str, name: str, code: str = "usage") -> Any:
    """Return the text of an argument or option as a value of pydantic's type `kind`; `name` is what the user typed.

    Raises `CommandError` (exit 2) with `code`.
    """
    try:
        return TypeAdapter[Any](kind).validate_python(text)
    except ValidationError as error:
        what = f"{describe_invalid(error, name)}; got {text!r}"
        raise CommandError(code, what, "command line", f"correct {name}", ExitCode.USAGE) from error
