"""What a stack is created with by the size of the machine, what a folder keeps, and what the user's choice changes."""

import os
from pathlib import Path

import psutil
import pytest

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack import assembly, machine
from tradesaga.infra.local_stack.assembly import StackOptions, bring_up
from tradesaga.infra.local_stack.state import PartState, ProcessId, StackState, change_state, read_state, write_state
from tradesaga.infra.local_stack.status import look
from tradesaga.infra.settings import load_settings
from tradesaga.schemas.topics import PARTITIONS


class ServersError(Exception):
    """The servers do not start: everything before that has been decided."""


@pytest.fixture(autouse=True)
def _no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA", "DATABASE_URL", "HOME", "PARTITIONS"):
        monkeypatch.delenv(f"TRADESAGA_{name}", raising=False)

    def fail(*_: object) -> StackState:
        raise ServersError

    monkeypatch.setattr(assembly, "start_servers", fail)


def partitions_after_up(home: Path) -> tuple[int, int]:
    """Return what `up` records before the servers start, and what later commands in the folder then read."""
    with pytest.raises(ServersError):
        bring_up(home, load_settings(home), StackOptions([]), print)
    return read_state(home).partitions, load_settings(home).partitions


@pytest.mark.parametrize(("cores", "partitions"), [(1, 3), (2, 3), (3, 12), (64, 12)])
def test_the_machine_decides_for_a_new_folder_and_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, partitions: int
) -> None:
    """Also if the folder moves to a machine of another size before its topics exist."""
    monkeypatch.setattr(machine, "cores", lambda: cores)
    assert partitions_after_up(tmp_path) == (partitions, partitions)
    monkeypatch.setattr(machine, "cores", lambda: 66 - cores)
    assert partitions_after_up(tmp_path) == (partitions, partitions)


def test_a_folder_of_an_earlier_release_keeps_its_topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a broker and no number: its topics have twelve partitions, however small the machine is."""
    monkeypatch.setattr(machine, "cores", lambda: 1)
    write_state(tmp_path, StackState(kafka="127.0.0.1:1"))
    assert partitions_after_up(tmp_path) == (0, PARTITIONS)


@pytest.mark.parametrize(("name", "value", "partitions"), [("PARTITIONS", "5", 5), ("KAFKA", "127.0.0.1:1", 12)])
def test_the_machine_decides_nothing_about_a_setting_or_a_given_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, partitions: int
) -> None:
    """A given broker may have topics already, and clients elsewhere that have the default."""
    monkeypatch.setattr(machine, "cores", lambda: 1)
    monkeypatch.setenv(f"TRADESAGA_{name}", value)
    assert partitions_after_up(tmp_path) == (0, partitions)


def parts_of(monkeypatch: pytest.MonkeyPatch, home: Path, together: bool | None) -> list[str]:
    """Return the parts that `up` would start for two services."""
    started: list[str] = []

    def start_servers(*_: object) -> StackState:
        return read_state(home)

    def start_part(_: Path, part: PartState) -> None:
        started.append(part.name)

    monkeypatch.setattr(assembly, "start_servers", start_servers)
    monkeypatch.setattr(assembly, "ensure_topics", create_nothing)
    monkeypatch.setattr(assembly, "start_part", start_part)
    for name in ("migrate_all", "_start_supervisor", "_wait_until_ready"):
        monkeypatch.setattr(assembly, name, nothing)
    bring_up(home, load_settings(home), StackOptions(["risk", "cash"], together), print)
    return sorted(set(started) - {"venue"})


def nothing(*_: object) -> None:
    """Start nothing, and wait for nothing."""


async def create_nothing(*_: object) -> None:
    """Create no topics."""


@pytest.mark.parametrize(("cores", "parts"), [(2, ["services"]), (3, ["cash", "risk"])])
def test_services_share_a_process_on_a_small_machine_and_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, parts: list[str]
) -> None:
    """The folder keeps what it has, on any machine, until the option says otherwise; then it keeps that."""
    monkeypatch.setattr(machine, "cores", lambda: cores)
    assert parts_of(monkeypatch, tmp_path, together=None) == parts
    assert look(tmp_path).together is (cores == 2)
    monkeypatch.setattr(machine, "cores", lambda: 5 - cores)
    assert parts_of(monkeypatch, tmp_path, together=None) == parts
    for together, wanted in ((True, ["services"]), (False, ["cash", "risk"])):
        assert parts_of(monkeypatch, tmp_path, together) == wanted
        assert parts_of(monkeypatch, tmp_path, together=None) == wanted


def test_an_upgrade_changes_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of an earlier release keeps its processes and topics on a small machine, and then knows their number."""
    monkeypatch.setattr(machine, "cores", lambda: 1)
    parts = tuple(PartState(name=name, serves=(name,)) for name in ("risk", "cash"))
    write_state(tmp_path, StackState(kafka="127.0.0.1:1", parts=parts))
    assert parts_of(monkeypatch, tmp_path, together=None) == ["cash", "risk"]
    assert read_state(tmp_path).partitions == PARTITIONS


def test_the_options_decide_for_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On any machine."""
    monkeypatch.setattr(machine, "cores", lambda: 1)
    assert parts_of(monkeypatch, tmp_path, together=False) == ["cash", "risk"]


@pytest.mark.parametrize("together", [True, False])
def test_a_running_stack_is_not_said_to_run_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """The other option is refused while it runs; the same one, or none, changes nothing."""
    parts_of(monkeypatch, tmp_path, together)
    me = ProcessId(pid=os.getpid(), started=psutil.Process().create_time())
    change_state(tmp_path, lambda state: state.model_copy(update={"supervisor": me}))
    runs = "all services in one process" if together else "one process for each service"
    with pytest.raises(CommandError, match=f"runs already, with {runs}") as caught:
        parts_of(monkeypatch, tmp_path, not together)
    assert caught.value.exit_code is ExitCode.REFUSED
    assert parts_of(monkeypatch, tmp_path, together) == parts_of(monkeypatch, tmp_path, None) == []


def test_the_setting_prevails_over_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the topics, which have another number, refuse it; the folder's number stays."""
    write_state(tmp_path, StackState(partitions=3))
    monkeypatch.setenv("TRADESAGA_PARTITIONS", "12")
    assert partitions_after_up(tmp_path) == (3, 12)
