"""A team's own modules: found, refused where two of them would do one thing, and their errors shown as theirs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from tradesaga.infra.cli.entry import execute
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack.state import StackState, write_state
from tradesaga.infra.registry.services import find_services, service_names
from tradesaga.infra.settings import Settings, load_settings

SAGA = """
from tradesaga.consumers import Participant, StepContext
from tradesaga.sagas import saga, seconds, step
from tradesaga.schemas.messages.message import Event

class Asked(Event):
    pass

class Thought(Event):
    pass

class Answered(Event):
    pass

think = step("think", on=Asked, emits=Thought)
answer = step("answer", on=Thought, emits=Answered)
talk = saga("talk", version=1, deadline=seconds(5)).then(think).then(answer)

async def do(event: Asked, ctx: StepContext) -> Thought:
    return Thought()

async def reply(event: Thought, ctx: StepContext) -> Answered:
    return Answered()
"""
OWNED = (
    SAGA
    + """
thinker = Participant("thinker", talk)
thinker.handles(think)(do)
speaker = Participant("speaker", talk)
speaker.handles(answer)(reply)
"""
)


@pytest.fixture
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in an empty folder that is on no path; what was imported from it is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("tradesaga.infra.cli.run.configure_logs", Mock())  # else its stdout is this test's for good
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command; gives its exit code and what it said on stderr."""
    code = execute(arguments)
    return code, capsys.readouterr().err


def test_the_current_folder_is_searched_last(apps: Path) -> None:
    """A module beside one is found, and shadows nothing that is installed."""
    (apps / "talking.py").write_text(OWNED)
    (apps / "typer.py").write_text("raise RuntimeError('not this one')\n")
    assert {"thinker", "speaker", "cash"} <= set(service_names(Settings(app=("talking", "typer"))))
    assert list(find_services(["thinker"], Settings(app=("talking",)))) == ["thinker"]


def test_a_mapping_goes_before_a_participant_of_its_name(apps: Path) -> None:
    """So a service can do something of its own before it serves."""
    (apps / "talking.py").write_text(OWNED + "async def mine(settings): ...\nservices = {'thinker': mine}\n")
    found = find_services(["thinker", "speaker"], Settings(app=("talking",)))
    assert [getattr(service, "__name__", "") for service in found.values()] == ["mine", "serve"]


@pytest.mark.parametrize("name", ["cash", "execution"])
def test_a_participant_may_not_take_the_name_of_another_service(apps: Path, name: str) -> None:
    """`up` would silently run one of the two."""
    (apps / "talking.py").write_text(OWNED.replace('"thinker"', f'"{name}"'))
    with pytest.raises(CommandError, match="has the name of another service") as caught:
        service_names(Settings(app=("talking",)))
    assert caught.value.exit_code is ExitCode.REFUSED


def test_a_registered_participant_may_be_imported(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the same one: neither a second owner nor a taken name."""
    (apps / "reusing.py").write_text("from tradesaga.consumers.services.cash import participant\n")
    assert "cash" in service_names(Settings(app=("reusing",)))
    assert check(capsys, "check", "--app", "reusing") == (0, "")


def test_two_owners_of_one_step_are_refused(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By `check`, `up` and `run`, before anything runs: each with a database of its own would do it for every saga."""
    (apps / "talking.py").write_text(OWNED + "second = Participant('second', talk)\nsecond.handles(answer)(reply)\n")
    for command in (["check"], ["up", "-d"], ["run", "second"]):
        code, said = check(capsys, *command, "--app", "talking")
        assert code == ExitCode.REFUSED, said
        assert "step answer of saga talk has two owners: speaker and second" in said


def test_a_second_owner_of_a_shipped_step_is_refused(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Installed participants count like those of a module."""
    body = (
        "from tradesaga.consumers import Participant\nfrom tradesaga.consumers.services import cash\n"
        "from tradesaga.sagas.trade.definition import *\n"
    )
    body += "mine = Participant('mine', trade)\nmine.handles_batch(reserve_funds)(cash.reserve)\n"
    (apps / "mine.py").write_text(body + "mine.compensates_batch(reserve_funds)(cash.release)\n")
    code, said = check(capsys, "check", "--app", "mine")
    assert (code, "has two owners: cash and mine" in said) == (ExitCode.REFUSED, True), said


def test_two_participants_of_one_name_are_refused(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They would share a consumer group, and each miss the records that the other gets."""
    (apps / "talking.py").write_text(OWNED.replace('"speaker"', '"thinker"'))
    code, said = check(capsys, "check", "--app", "talking")
    assert (code, "name them differently" in said) == (ExitCode.REFUSED, True), said


@pytest.mark.parametrize("name", ["log", "intake", "signal-router", "", "two words", "ä"])
def test_a_participants_name_names_its_group(apps: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The saga log's group, or one that Kafka does not take, is refused where it is written."""
    (apps / "talking.py").write_text(OWNED.replace('"speaker"', f'"{name}"'))
    code, said = check(capsys, "check", "--app", "talking")
    assert (code, f"participant {name!r}: use letters" in said) == (1, True), said


def test_a_step_nobody_owns_is_named(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning: its owner may be registered elsewhere."""
    (apps / "talking.py").write_text(SAGA + "thinker = Participant('thinker', talk)\nthinker.handles(think)(do)\n")
    code, said = check(capsys, "check", "--app", "talking")
    assert (code, "no participant that is registered here owns answer" in said) == (0, True), said
    code, said = check(capsys, "check", "--app", "talking", "--json")
    assert "owns answer" in json.loads(said)["warning"]
    assert check(capsys, "check") == (0, "")


@pytest.mark.parametrize(
    ("body", "what", "line"),
    [
        ("x = 1\ny = x.missing\n", "AttributeError: 'int' object has no attribute 'missing'", 2),
        ("\n\ndef broken(:\n", "SyntaxError: invalid syntax", 3),
        ("import nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all'", 1),
        ("raise SystemExit('not now')\n", "SystemExit: not now", 1),
        ("import json\njson.loads('{')\n", "JSONDecodeError: Expecting property name", 2),
        (
            "from tradesaga.sagas import saga, seconds\nsaga('s', version=0, deadline=seconds(1))\n",
            "cannot work: s: version 0",
            2,
        ),
    ],
)
def test_an_error_in_a_users_module_is_shown_as_theirs(
    apps: Path, capsys: pytest.CaptureFixture[str], body: str, what: str, line: int
) -> None:
    """By each command that needs it: what, with file and line; no trace, nothing to report to us."""
    (apps / "wrong.py").write_text(body)
    for command in (["check"], ["up", "-d"], ["run", "anything"], ["schema", "list"]):
        code, said = check(capsys, *command, "--app", "wrong")
        assert code == 1
        assert what in said
        assert f"{apps / 'wrong.py'}:{line}" in said
        assert "report it" not in said
        assert len(said.splitlines()) == 1


def test_a_service_that_raises_is_shown_as_theirs(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever it raises, while it runs: file and line, and nothing to report to us."""
    (apps / "failing.py").write_text(
        "async def tick(settings):\n    raise LookupError('gone')\nservices = {'tick': tick}\n"
    )
    code, said = check(capsys, "run", "tick", "--app", "failing")
    assert code == 1
    assert said.splitlines()[-1].startswith(f"tradesaga: LookupError: gone ({apps / 'failing.py'}:2)")


def test_a_start_without_its_fields_is_named(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`start` says which fields are missing, as the definition's fault."""
    (apps / "talking.py").write_text(OWNED)
    write_state(apps / "home", StackState(app=("talking",)))
    code, said = check(capsys, "start", "--saga", "talk", "--file", "-", "--dir", str(apps / "home"))
    assert (code, "Asked starts 'talk' and so needs the fields ['account', 'idempotency_key']" in said) == (1, True), (
        said
    )


@pytest.mark.parametrize("module", ["", ".relative", "nowhere", "talking.nowhere"])
def test_a_module_that_is_not_there_is_not_found(apps: Path, module: str) -> None:
    """Exit 3, with where it is looked for."""
    (apps / "talking.py").write_text(OWNED)
    with pytest.raises(CommandError) as caught:
        service_names(Settings(app=(module,)))
    assert caught.value.exit_code is ExitCode.NOT_FOUND
    assert "PYTHONPATH" in caught.value.do


def test_a_modules_file_is_not_its_name(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The name is told, as the folder already is the right one."""
    (apps / "talking.py").write_text(OWNED)
    code, said = check(capsys, "check", "--app", "talking.py")
    assert (code, "write the module's name, talking, instead of its file" in said) == (ExitCode.NOT_FOUND, True), said


def test_a_module_that_has_nothing_is_named(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The wrong module of a package would otherwise look checked."""
    (apps / "blank.py").write_text("x = 1\n")
    for command in (["check"], ["up", "-d"]):
        code, said = check(capsys, *command, "--app", "blank")
        assert (code, "has no saga, no participant and no `services` (blank)" in said) == (3, True), said


def test_several_modules_are_given_as_in_the_environment(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Separated by commas, as TRADESAGA_APP names them."""
    (apps / "talking.py").write_text(OWNED)
    (apps / "other.py").write_text("services = {}\n")
    assert check(capsys, "check", "--app", "talking,other") == (0, "")
    assert load_settings(apps, ["talking,other", "talking"]).app == ("talking", "other")


@pytest.mark.parametrize("services", ["[1]", "{1: print}", "{'tick': 'tock'}", "None", "{'': print}"])
def test_services_that_cannot_run_are_refused(apps: Path, capsys: pytest.CaptureFixture[str], services: str) -> None:
    """In one sentence, by whatever would run them."""
    (apps / "odd.py").write_text(f"services = {services}\n")
    for command in (["up", "-d"], ["run", "tick"]):
        code, said = check(capsys, *command, "--app", "odd")
        assert (code, "`services` maps no names to functions (odd)" in said) == (1, True), said


def test_a_package_may_have_a_part_named_services(apps: Path) -> None:
    """Once imported it is an attribute of the package, and no mapping."""
    (apps / "firm").mkdir()
    (apps / "firm" / "__init__.py").write_text("from . import services\n" + OWNED)
    (apps / "firm" / "services.py").write_text("")
    assert {"thinker", "speaker"} <= set(service_names(Settings(app=("firm",))))


def test_what_up_was_given_is_known_to_later_commands(apps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's state names the modules; the environment goes before it, an option adds to either."""
    monkeypatch.delenv("TRADESAGA_APP", raising=False)
    write_state(apps, StackState(app=("shop",)))
    assert load_settings(apps).app == ("shop",)
    assert load_settings(apps, ["more", "shop"]).app == ("shop", "more")
    monkeypatch.setenv("TRADESAGA_APP", "other")
    assert load_settings(apps).app == ("other",)
    monkeypatch.setenv("TRADESAGA_APP", "")
    assert load_settings(apps).app == ()


def test_the_gate_works_for_a_registered_app(
    apps: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named by TRADESAGA_APP and by --app at once, its messages are recorded and held to it; none is an error."""
    (apps / "talking.py").write_text(OWNED)
    (apps / "later.py").write_text(
        OWNED.replace("class Answered(Event):\n    pass", "class Answered(Event):\n    n: int")
    )
    (apps / "empty.py").write_text("services = {}\n")
    monkeypatch.setenv("TRADESAGA_APP", "talking")
    assert execute(["schema", "record", "--app", "talking", "--golden", "kept"]) == 0
    assert (apps / "kept" / "talk.answered.v1.json").exists()
    assert execute(["schema", "check", "--app", "talking", "--golden", "kept"]) == 0
    assert "\n0 messages" not in f"\n{capsys.readouterr().out}"
    monkeypatch.setenv("TRADESAGA_APP", "later")
    assert execute(["schema", "check", "--app", "later", "--golden", "kept"]) == 1
    assert "n: a required field is added" in capsys.readouterr().out
    for command in (["record"], ["check"]):
        code, said = check(capsys, "schema", *command, "--app", "empty", "--golden", "kept")
        assert (code, "no saga with messages to record" in said) == (ExitCode.NOT_FOUND, True)
    code, said = check(capsys, "schema", "check", "--app", "later")
    assert (code, "--golden FOLDER" in said) == (ExitCode.USAGE, True)
    assert execute(["schema", "check"]) == 0
    assert "not checked without --golden: talk" in capsys.readouterr().out


REGISTRY = """
import sys
from tradesaga.infra.registry.participants import registered_participants
from tradesaga.infra.settings import Settings

owners = {step: owner.name for owner in registered_participants(Settings()) for step in owner.steps}
print(owners["place_order"], owners["confirm_fill"], len(owners), "ccxt" in sys.modules)
"""


def test_every_step_of_the_trade_has_its_owner_without_a_venue() -> None:
    """One registry: `why`, `check` and recovery name execution where no venue is known and no client installed."""
    ran = subprocess.run([sys.executable, "-c", REGISTRY], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["execution", "execution", "6", "False"], ran.stderr
