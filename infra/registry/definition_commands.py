"""`tradesaga check`, `diagram` and `schema`: what can be said of definitions without any server."""

from typing import Annotated, Literal

import typer

from tradesaga.infra.cli.options import App, AsJson
from tradesaga.infra.cli.output import print_result, print_warning
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.registry.sagas import SAGAS, check_ownership, find_saga, registered_sagas
from tradesaga.infra.registry.schema_commands import schema
from tradesaga.infra.settings import load_settings
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.diagram import draw_dot, draw_mermaid

commands = typer.Typer()
commands.add_typer(schema, name="schema")


@commands.command(epilog="Example: `tradesaga check --app shop`")
def check(*, app: App = None, as_json: AsJson = False) -> None:
    """Import every registered saga and participant, and those of --app, and say whether they are sound.

    Exit 4: a step has two owners. A step that no participant registered here owns is named as a warning.
    """
    settings = load_settings(app=app)
    sagas = registered_sagas(settings.app)
    if not sagas:
        do = f"register one under the entry-point group {SAGAS}, or name its module with --app"
        raise CommandError("no-sagas", "there is no saga to check", SAGAS, do, ExitCode.NOT_FOUND)
    for warning in check_ownership(settings):
        print_warning(warning, as_json=as_json)
    for each in (definition for saga in sagas.values() for definition in saga.versions.values()):
        print_result(_summary(each), _sentence(each), as_json=as_json)


@commands.command(epilog="Example: `tradesaga diagram trade`")
def diagram(
    saga: Annotated[str, typer.Argument(help="The saga's name.")],
    *,
    version: Annotated[
        int | None, typer.Option(help="The definition's version; that of new sagas if not given.")
    ] = None,
    app: App = None,
    form: Annotated[
        Literal["mermaid", "dot"], typer.Option("--format", help="The language of the drawing.")
    ] = "mermaid",
) -> None:
    """Draw a saga from its definition, as text that Mermaid or Graphviz renders."""
    found = find_saga(saga, load_settings(app=app).app)
    if version is not None:
        if version not in found.versions:
            what, known = f"saga {saga!r} has no version {version} here", ", ".join(map(str, sorted(found.versions)))
            raise CommandError("version-unknown", what, SAGAS, f"known: {known}", ExitCode.NOT_FOUND)
        found = found.versions[version]
    typer.echo(draw_dot(found) if form == "dot" else draw_mermaid(found), nl=False)


def _summary(saga: AnySaga) -> dict[str, object]:
    steps = [{"name": each.name, "kind": each.kind.value} for each in saga.steps]
    return {"saga": saga.name, "version": saga.version, "sound": True, "steps": steps}


def _sentence(saga: AnySaga) -> str:
    steps = ", ".join(f"{each.name} ({each.kind.value})" for each in saga.steps)
    return f"{saga.name} v{saga.version} is sound: {steps}"
