"""Settings come from the environment, then from the stack that runs; a wrong one is named, never shown."""

import os
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack.assembly import StackOptions, bring_up
from tradesaga.infra.local_stack.state import (
    PostgresState,
    ProcessId,
    StackState,
    change_state,
    read_state,
    write_state,
)
from tradesaga.infra.local_stack.status import look
from tradesaga.infra.outbox.guard import group_filter_for
from tradesaga.infra.settings import LEDGER_SERVICES, load_settings

URL = "postgresql://user:hidden-password@127.0.0.1:5432/trades"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA", "DATABASE_URL", "HOME", "VENUE_URL"):
        monkeypatch.delenv(f"TRADESAGA_{name}", raising=False)


def test_the_running_stack_fills_what_the_environment_leaves_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state file gives the addresses; a variable that is set wins over it."""
    write_state(tmp_path, StackState(kafka="127.0.0.1:1", database_url=URL, http_port=8080))
    monkeypatch.setenv("TRADESAGA_KAFKA", "127.0.0.1:2")
    settings = load_settings(tmp_path)
    assert settings.brokers() == "127.0.0.1:2"
    assert settings.database_for("cash") == URL
    assert settings.http_port == 8080


def test_the_prefix_that_up_has_noted_holds_for_later_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable wins over it, an empty one too; a running stack takes no other one."""
    me = ProcessId(pid=os.getpid(), started=psutil.Process().create_time())
    write_state(tmp_path, StackState(kafka="127.0.0.1:1", topic_prefix="desk7", supervisor=me))
    assert load_settings(tmp_path).brokers() == "127.0.0.1:1/desk7"
    assert look(tmp_path).topic_prefix == "desk7"
    monkeypatch.setenv("TRADESAGA_TOPIC_PREFIX", "")
    settings = load_settings(tmp_path)
    assert settings.brokers() == "127.0.0.1:1"
    with pytest.raises(CommandError, match="runs already, with the topic prefix desk7"):
        bring_up(tmp_path, settings, StackOptions([]), print)


def test_a_service_may_have_its_own_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRADESAGA_DATABASE_URL_SAGA_LOG is the saga log's alone."""
    monkeypatch.setenv("TRADESAGA_DATABASE_URL", URL)
    monkeypatch.setenv("TRADESAGA_DATABASE_URL_SAGA_LOG", URL.replace("trades", "log"))
    settings = load_settings(tmp_path)
    assert settings.database_for("saga_log").endswith("/log")
    assert settings.database_for("risk") == URL


def test_services_with_other_users_of_one_database_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the saga log has one of its own, its doors have that too, and participants the other."""
    monkeypatch.setenv("TRADESAGA_DATABASE_URL", "postgresql://all:1@db:5432/trades")
    monkeypatch.setenv("TRADESAGA_DATABASE_URL_DESK", "postgresql://desk:2@db:5432/trades?sslmode=require")
    desk = group_filter_for(load_settings(tmp_path), "desk")
    assert all(desk(group) for group in ("log", "intake", "port"))
    for elsewhere in ("postgresql://all:1@db:5433/trades", "postgresql://all:1@db:5432/log"):
        monkeypatch.setenv("TRADESAGA_DATABASE_URL_SAGA_LOG", elsewhere)
        settings = load_settings(tmp_path)
        desk, log = group_filter_for(settings, "desk"), group_filter_for(settings, "saga_log")
        assert [desk(group) for group in ("log", "intake", "signal-router", "port")] == [False, False, False, True]
        assert [log(group) for group in ("log", "intake", "signal-router", "port")] == [True, True, True, False]


def test_a_service_whose_database_nobody_names_may_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process may know its own alone: lanes count as evidence then."""
    monkeypatch.setenv("TRADESAGA_DATABASE_URL_DESK", URL)
    assert group_filter_for(load_settings(tmp_path), "desk")("log")


@pytest.mark.parametrize("service", LEDGER_SERVICES)
def test_the_trades_services_share_one_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    """A database of one's own for any of them is refused for all, by the name of the variable; one for all is taken."""
    monkeypatch.setenv("TRADESAGA_DATABASE_URL", URL)
    monkeypatch.setenv(f"TRADESAGA_DATABASE_URL_{service.upper()}", URL.replace("trades", "hidden"))
    settings = load_settings(tmp_path)
    for each in LEDGER_SERVICES:
        with pytest.raises(CommandError, match="share one ledger database") as caught:
            settings.database_for(each)
        assert caught.value.exit_code is ExitCode.USAGE
        assert f"TRADESAGA_DATABASE_URL_{service.upper()}" in caught.value.do
        assert "hidden" not in str(caught.value)
    for each in LEDGER_SERVICES:
        monkeypatch.setenv(f"TRADESAGA_DATABASE_URL_{each.upper()}", URL.replace("trades", "ledger"))
    assert {load_settings(tmp_path).database_for(each) for each in LEDGER_SERVICES} == {URL.replace("trades", "ledger")}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRADESAGA_DATABASE_URL", "mysql://user:hidden-password@host/trades"),
        ("TRADESAGA_DATABASE_URL", "postgresql://user:hidden-password@host"),
        ("TRADESAGA_DATABASE_URL_CASH", "hidden-password"),
        ("TRADESAGA_SERVICE_DATABASES", "[[hidden-password"),
        ("TRADESAGA_KAFKA", "hidden-password"),
        ("TRADESAGA_KAFKA", "host:²"),
        ("TRADESAGA_KAFKA", "host:99999999"),
        ("TRADESAGA_KAFKA", "host:0"),
        ("TRADESAGA_KAFKA", "host:1,"),
        ("TRADESAGA_KAFKA", "a host:1"),
        ("TRADESAGA_KAFKA", "\udcff:1"),
        ("TRADESAGA_HTTP_PORT", "70000"),
        ("TRADESAGA_PARTITIONS", "0"),
        ("TRADESAGA_PARTITIONS", "121"),
        ("TRADESAGA_LOG_LEVEL", "LOUD"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_kept_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """The error is a usage error that names the variable and how to write it."""
    monkeypatch.setenv(name, value)
    with pytest.raises(CommandError, match=name) as caught:
        load_settings(tmp_path)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "hidden-password" not in str(caught.value)


def test_without_any_server_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    """Neither a stack nor a variable: exit code 5 and the two ways out."""
    settings = load_settings(tmp_path)
    for ask in (settings.brokers, settings.database_for):
        with pytest.raises(CommandError, match="tradesaga up") as caught:
            ask()
        assert caught.value.exit_code is ExitCode.UNAVAILABLE


def test_settings_do_not_change_and_hide_their_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy may differ; the value itself is frozen, and its text shows no password."""
    monkeypatch.setenv("TRADESAGA_DATABASE_URL", URL)
    settings = load_settings(tmp_path)
    assert settings.changed(metrics_port=9000).metrics_port == 9000
    assert settings.metrics_port == 0
    assert "hidden-password" not in repr(settings)
    with pytest.raises(ValidationError):
        settings.metrics_port = 1


def test_a_damaged_state_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Nothing is started or stopped on a guess."""
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(CommandError, match=r"state\.json"):
        read_state(tmp_path)


def test_the_state_file_is_for_its_owner_only(tmp_path: Path) -> None:
    """It holds the database's password."""
    change_state(tmp_path, lambda state: state.model_copy(update={"postgres": PostgresState(password="p")}))
    assert (tmp_path / "state.json").stat().st_mode & 0o077 == 0
    assert read_state(tmp_path).postgres.password == "p"
