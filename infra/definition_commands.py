"""`tradesaga check`, `diagram` and `schema`: what can be said of definitions without any server."""

import json
from typing import Annotated, Literal

import typer

from infra.errors import CommandError, ExitCode
from infra.registered import SAGAS, find_saga, registered_sagas
from infra.schema_commands import App, AsJson, schema
from infra.settings import load_settings
from sagas.definition import AnySaga
from sagas.diagram import draw_dot, draw_mermaid
from sagas.errors import DefinitionError

commands = typer.Typer()
commands.add_typer(schema, name="schema")


@commands.command()
def check(*, app: App = None, as_json: AsJson = False) -> None:
    """Import every registered saga, and those of --app, and say whether they are sound."""
    try:
        sagas = registered_sagas((*load_settings().app, *(app or ())))
    except (DefinitionError, ImportError) as error:
        where = ", ".join([f"entry points {SAGAS}", *(app or ())])
        what = f"a definition cannot work: {error}"
        raise CommandError("definition-unsound", what, where, "change it as said") from error
    if not sagas:
        do = f"register one under the entry-point group {SAGAS}, or name its module with --app"
        raise CommandError("no-sagas", "there is no saga to check", SAGAS, do, ExitCode.NOT_FOUND)
    for each in sagas.values():
        typer.echo(json.dumps(_summary(each)) if as_json else _sentence(each))


@commands.command()
def diagram(
    saga: str, *, app: App = None, form: Annotated[Literal["mermaid", "dot"], typer.Option("--format")] = "mermaid"
) -> None:
    """Draw a saga from its definition, as text that Mermaid or Graphviz renders."""
    found = find_saga(saga, (*load_settings().app, *(app or ())))
    typer.echo(draw_dot(found) if form == "dot" else draw_mermaid(found), nl=False)


def _summary(saga: AnySaga) -> dict[str, object]:
    steps = [{"name": each.name, "kind": each.kind.value} for each in saga.steps]
    return {"saga": saga.name, "version": saga.version, "sound": True, "steps": steps}


def _sentence(saga: AnySaga) -> str:
    steps = ", ".join(f"{each.name} ({each.kind.value})" for each in saga.steps)
    return f"{saga.name} v{saga.version} is sound: {steps}"
