"""`check`, `diagram` and `schema` as a person and a script meet them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tradesaga.infra.cli.entry import execute

SOUND = """
from tradesaga.sagas import saga, seconds, step
from tradesaga.schemas.messages.message import Event

class Asked(Event):
    pass

class Answered(Event):
    {field}

talk = saga("talk", version=1, deadline=seconds(5)).then(step("answer", on=Asked, emits=Answered))
"""
UNSOUND = SOUND.format(field="pass") + "talk.also(step('answer', on=Answered, emits=Asked))\n"


@pytest.fixture
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder for modules that can be named with --app; what was imported from it is forgotten again."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def test_registered_sagas_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped saga is sound, and its steps' kinds are told."""
    assert execute(["check"]) == 0
    assert "trade v1 is sound: validate_order (compensatable)" in capsys.readouterr().out
    assert execute(["check", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["steps"][4] == {"name": "confirm_fill", "kind": "pivot"}


def test_a_users_saga_is_checked_and_drawn(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A module named with --app adds its sagas."""
    (apps / "talking.py").write_text(SOUND.format(field="pass"))

    assert execute(["check", "--app", "talking"]) == 0
    assert "talk v1 is sound: answer (retriable)" in capsys.readouterr().out
    assert execute(["diagram", "talk", "--app", "talking"]) == 0
    assert capsys.readouterr().out.startswith('flowchart TD\n    start(["talk"])')
    assert execute(["diagram", "talk", "--app", "talking", "--format", "dot"]) == 0
    assert capsys.readouterr().out.startswith('digraph "talk" {')


def test_an_unsound_saga_fails_the_check_with_what_to_change(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 and the definition's own sentence; no stack trace."""
    (apps / "muddled.py").write_text(UNSOUND)

    assert execute(["check", "--app", "muddled", "--json"]) == 1
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "definition-unsound"
    assert "two steps are named 'answer'; give each its own name" in error["what"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "--app", "nowhere.at_all"], "No module named 'nowhere'"),
        (["diagram", "nothing"], "there is no saga definition 'nothing'"),
        (["schema", "show", "trade.nothing.v1"], "there is no wire type 'trade.nothing.v1'"),
    ],
)
def test_what_is_not_there_is_exit_code_3(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Not found is its own exit code, in words for people."""
    assert execute(arguments) == 3
    assert capsys.readouterr().err.startswith(f"tradesaga: {words}")


def test_schemas_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Every wire type with its first sentence; one as JSON Schema, closed as written and open as read."""
    assert execute(["schema", "list"]) == 0
    assert "trade.signal-raised.v1" in capsys.readouterr().out
    assert execute(["schema", "list", "--json"]) == 0
    types = [json.loads(line)["type"] for line in capsys.readouterr().out.splitlines()]
    assert types == sorted(types)
    assert execute(["schema", "show", "trade.funds-reserved.v1"]) == 0
    assert json.loads(capsys.readouterr().out)["additionalProperties"] is False
    assert execute(["schema", "show", "trade.funds-reserved.v1", "--accepted"]) == 0
    assert "additionalProperties" not in json.loads(capsys.readouterr().out)


def test_the_gate_passes_records_and_refuses(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user's own recordings: new is recorded, a break is refused with its reason, as lines for scripts too."""
    assert execute(["schema", "check"]) == 0
    assert "messages are as recorded" in capsys.readouterr().out
    (apps / "first.py").write_text(SOUND.format(field="note: str = ''"))
    (apps / "second.py").write_text(SOUND.format(field="note: int"))

    assert execute(["schema", "check", "--app", "first", "--golden", "kept"]) == 1
    assert "talk.answered.v1: is not recorded; record it" in capsys.readouterr().out
    assert execute(["schema", "record", "--app", "first", "--golden", "kept"]) == 0
    assert "talk.answered.v1" in capsys.readouterr().out.splitlines()
    assert execute(["schema", "check", "--app", "first", "--golden", "kept"]) == 0
    assert execute(["schema", "check", "--app", "second", "--golden", "kept", "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {"note: becomes required; old records may lack it", "note: type changes from 'string' to 'integer'"} == {
        line["what"] for line in lines
    }
    assert execute(["schema", "record", "--app", "second", "--golden", "kept"]) == 4


def test_topics_are_listed_for_those_who_create_them(
    apps: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`schema topics` shows the topics of every saga, --app's too, as a table, JSON and Strimzi resources."""
    (apps / "listed.py").write_text(SOUND.format(field="pass").replace('"talk"', '"listed"'))
    monkeypatch.setenv("TRADESAGA_TOPIC_MIN_INSYNC_REPLICAS", "3")
    monkeypatch.setenv("TRADESAGA_PARTITIONS", "6")
    assert execute(["schema", "topics", "--app", "listed", "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert {"trade.events", "listed.events", "listed.starts", "trade.signals"} < found.keys()
    events = found["listed.events"]
    assert (events["partitions"], events["replicas"]) == (6, 3)
    assert found["listed.checkpoints"]["partitions"] == 1
    assert events["settings"]["message.timestamp.type"] == "LogAppendTime"
    assert events["settings"]["min.insync.replicas"] == "3"

    assert execute(["schema", "topics", "--brokers", "1", "--strimzi", "mine"]) == 0
    resources = capsys.readouterr().out.split("---\n")[1:]
    first = {name: json.loads(text) for name, _, text in (line.partition(": ") for line in resources[0].splitlines())}
    assert (first["kind"], first["metadata"]["labels"]) == ("KafkaTopic", {"strimzi.io/cluster": "mine"})
    assert (first["spec"]["topicName"], first["spec"]["replicas"]) == ("trade.events", 1)
    assert first["spec"]["partitions"] == 6
    assert first["spec"]["config"]["retention.ms"] == "-1"

    assert execute(["schema", "topics"]) == 0
    assert "unclean.leader.election.enable=false" in capsys.readouterr().out
    assert execute(["schema", "topics", "--json", "--strimzi", "mine"]) == 2


def test_topics_are_listed_with_their_prefix(
    apps: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the cluster calls them; on a narrow terminal nothing is cut off."""
    del apps
    monkeypatch.setenv("TRADESAGA_TOPIC_PREFIX", "desk7-with-a-long-name")
    assert execute(["schema", "topics", "--json"]) == 0
    names = [each["name"] for each in json.loads(capsys.readouterr().out)]
    assert "desk7-with-a-long-name.trade.signals" in names
    assert all(name.startswith("desk7-with-a-long-name.") for name in names)
    assert execute(["schema", "topics", "--strimzi", "mine"]) == 0
    assert '"topicName": "desk7-with-a-long-name.trade.events"' in capsys.readouterr().out
    assert execute(["schema", "topics"]) == 0
    assert "…" not in capsys.readouterr().out


TWO = """
newer = saga("talk", version=2, deadline=seconds(9)).then(step("answer", on=Asked, emits=Answered))
"""
WHOLE = "whole = newer.alongside(talk)\n"


def test_versions_are_checked_and_drawn_side_by_side(apps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The value that has the others beside it is registered; `--version` draws one of them."""
    (apps / "versions.py").write_text(SOUND.format(field="pass") + TWO + WHOLE)

    assert execute(["check", "--app", "versions", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["saga"], each["version"]) for each in told if each["saga"] == "talk"] == [("talk", 2), ("talk", 1)]
    for version in ("1", "2"):
        assert execute(["diagram", "talk", "--app", "versions", "--version", version]) == 0
    capsys.readouterr()
    assert execute(["diagram", "talk", "--app", "versions", "--version", "3"]) == 3
    assert "saga 'talk' has no version 3 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (TWO, "saga 'talk' is defined in versions 1, 2, and none includes the others"),
        (
            TWO + WHOLE + "back = talk.alongside(newer)\n",
            "two definitions of saga 'talk' each claim new sagas",
        ),
        (TWO.replace("version=2", "version=1"), "two definitions of saga 'talk' have version 1"),
    ],
)
def test_versions_that_nobody_has_put_together_are_refused(
    apps: Path, capsys: pytest.CaptureFixture[str], more: str, words: str
) -> None:
    """None is taken silently for another: which one starts new sagas is for the user to say."""
    (apps / "apart.py").write_text(SOUND.format(field="pass") + more)

    assert execute(["check", "--app", "apart"]) == 2
    assert words in capsys.readouterr().err
