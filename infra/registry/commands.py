"""`tradesaga check`, `diagram` and `schema`: commands on definitions, without a server."""

import json
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from tradesaga.infra.cli.console import App, AsJson, print_result, print_warning
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.topic_commands import topics
from tradesaga.infra.registry.sagas import SAGAS, check_ownership, find_saga, module_sagas, registered_sagas
from tradesaga.infra.settings import load_settings
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.diagram import draw_dot, draw_mermaid
from tradesaga.schemas.compatibility import golden
from tradesaga.schemas.compatibility.contract import Contract, contracts_of
from tradesaga.schemas.compatibility.golden import SHIPPED
from tradesaga.schemas.messages import signals
from tradesaga.schemas.messages.message import wire_type

commands = typer.Typer()
schema = typer.Typer(no_args_is_help=True, help="Show, record and check the schemas of messages; list the topics.")


schema.command()(topics)
commands.add_typer(schema, name="schema")


@commands.command(epilog="Example: `tradesaga check --app shop`")
def check(*, app: App = None, as_json: AsJson = False) -> None:
    """Import every registered saga and participant, and those of --app, and check them.

    Exit 4: a step has two owners. A warning names each step that no participant registered here owns.
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
    version: Annotated[int | None, typer.Option(help="The definition's version; default that of new sagas.")] = None,
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


Golden = Annotated[Path | None, typer.Option("--golden", help="The folder of recordings; default the shipped one.")]

OWN: Final = "trade"

SIGNALS: Final = [(wire_type(OWN, message), message) for message in signals.MESSAGES]
"""The messages of strategies on `trade.signals`, which belong to no saga."""


@schema.command("list", epilog="Example: `tradesaga schema list --app shop`")
def list_types(*, app: App = None, as_json: AsJson = False) -> None:
    """List every wire type; with --app, those of its sagas alone."""
    for ce_type, contract in sorted(_contracts(app).items()):
        about = (contract.message.__doc__ or "").strip().splitlines()[0]
        print_result({"type": ce_type, "about": about}, f"{ce_type:45} {about}", as_json=as_json)


@schema.command(epilog="Example: `tradesaga schema show trade.trade-requested.v1`")
def show(
    ce_type: Annotated[str, typer.Argument(metavar="TYPE", help="A wire type, as trade.trade-requested.v1.")],
    *,
    accepted: Annotated[
        bool, typer.Option(help="The schema that is accepted, instead of the one that is published.")
    ] = False,
    app: App = None,
) -> None:
    """Print the JSON Schema of a wire type."""
    contracts = _contracts(app)
    if ce_type not in contracts:
        do = "see `tradesaga schema list`"
        raise CommandError("type-unknown", f"there is no wire type {ce_type!r}", "schema", do, ExitCode.NOT_FOUND)
    found = contracts[ce_type]
    typer.echo(json.dumps(found.accepted() if accepted else found.published(), indent=2, ensure_ascii=False))


@schema.command("check", epilog="Example: `tradesaga schema check --golden contracts --app shop`")
def check_contracts(*, folder: Golden = None, app: App = None, as_json: AsJson = False) -> None:
    """Compare every message with its recordings: old and new revisions must read each other."""
    if app and folder is None:
        do = "add --golden FOLDER with the recordings of `tradesaga schema record`"
        what = "the messages of --app are not among the shipped recordings"
        raise CommandError("usage", what, "schema check", do, ExitCode.USAGE)
    contracts, recordings = _contracts(app, own=folder is None), folder or SHIPPED
    findings = list(golden.compare(contracts, recordings))
    for each in findings:
        line = {"type": each.ce_type, "what": each.what, "do": each.do, "breaks": each.breaks}
        print_result(line, f"{each.ce_type}: {each.what}; {each.do}", as_json=as_json)
    if findings:
        do = "add a new version of each broken message; record the others: `tradesaga schema record --golden FOLDER`"
        raise CommandError("schema-changed", f"{len(findings)} findings", _name(recordings), do)
    if not as_json:
        typer.echo(f"{len(contracts)} messages are as recorded{_left_out(app, folder)}")


@schema.command(epilog="Example: `tradesaga schema record --golden contracts --app shop`")
def record(
    *, folder: Annotated[Path, typer.Option("--golden", help="The folder of recordings.")], app: App = None
) -> None:
    """Record new and compatibly changed messages; refused if any change is incompatible."""
    contracts = _contracts(app)
    if broken := [each for each in golden.compare(contracts, folder) if each.breaks]:
        what = f"{broken[0].ce_type}: {broken[0].what}"
        raise CommandError("schema-breaks", what, _name(folder), broken[0].do, ExitCode.REFUSED)
    for ce_type in golden.record(contracts, folder):
        typer.echo(ce_type)


def _contracts(app: list[str] | None, *, own: bool = False) -> dict[str, Contract]:
    """Return the contracts of the sagas in `app`, or of all registered sagas, or of the shipped one (`own`).

    Raises `CommandError` (exit 3) if there is none: a check without messages would always pass.
    """
    registered = registered_sagas()
    sagas = module_sagas(app) if app else registered_sagas(load_settings().app)
    if app or own:
        sagas = {name: saga for name, saga in sagas.items() if (saga is registered.get(OWN)) is own}
    types = [each for saga in sagas.values() for each in saga.message_types.items()]
    if not types:
        what, do = "there is no saga with messages to record", "name a module that defines one with --app"
        raise CommandError("no-messages", what, ", ".join(app or ()) or "schema", do, ExitCode.NOT_FOUND)
    return contracts_of(types if app else [*SIGNALS, *types])


def _left_out(app: list[str] | None, folder: Path | None) -> str:
    """Return a note on the sagas that a check of the shipped recordings leaves out."""
    others = sorted(registered_sagas(load_settings().app).keys() - {OWN}) if not app and folder is None else []
    return f"; not checked without --golden: {', '.join(others)}" if others else ""


def _name(folder: Traversable) -> str:
    return str(folder) if isinstance(folder, Path) else "schemas"
