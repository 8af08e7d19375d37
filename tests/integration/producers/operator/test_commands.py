"""The commands that see and act on sagas, against real servers."""

import asyncio
import io
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest

from tests.integration.consumers.saga_log.rig import Rig, open_rig
from tests.sagas import Filled, Held, HoldRefused, OrderAsked, Placed, Settled, Unheld, Unplaced, headers_of
from tradesaga.infra.cli.entry import execute
from tradesaga.schemas.messages.lifecycle import AttemptFailed, CompensationFailed, StepFailed

pytestmark = pytest.mark.stack


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command has done."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Read what it printed."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """Give the code of its error, the last line on stderr: the saga log beside it writes there too."""
        return json.loads(self.err.splitlines()[-1])["error"]["code"]


class Shell:
    """Runs commands on the rig's servers: in this process, one after the other, or as processes of their own."""

    def __init__(self, rig: Rig, url: str) -> None:
        self.rig = rig
        self.environment = {
            "TRADESAGA_KAFKA": rig.kafka,
            "TRADESAGA_DATABASE_URL": url,
            "TRADESAGA_APP": "tests.named_saga",
            "TEST_SAGA": rig.saga.name,
            "USER": "ann",
        }
        self._turn = asyncio.Lock()

    async def run(self, *arguments: str) -> Ran:
        """Run a command in a thread, as the console script would."""
        async with self._turn:
            return await asyncio.to_thread(self._execute, arguments)

    def _execute(self, arguments: Sequence[str]) -> Ran:
        sys.modules.pop("tests.named_saga", None)
        out, err = io.StringIO(), io.StringIO()
        with patch.dict(os.environ, self.environment), redirect_stdout(out), redirect_stderr(err):
            code = execute(arguments)
        return Ran(code, out.getvalue(), err.getvalue())

    async def spawn(self, *arguments: str) -> Ran:
        """Run a command as a process of its own."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tradesaga.infra.cli.entry", *arguments, env={**os.environ, **self.environment},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return Ran(process.returncode or 0, out.decode(), err.decode())

    async def saga(self, *events: Any) -> UUID:
        """Start a saga and let these facts happen to it."""
        saga_id = uuid4()
        for event in (OrderAsked(idempotency_key=str(saga_id), account="A"), *events):
            await self.rig.say(saga_id, event)
        return saga_id


@pytest.fixture
async def shell(kafka: str, database_url: str) -> AsyncIterator[Shell]:
    """Give a shell beside a running saga log."""
    async with open_rig(kafka, database_url) as rig, rig.running():
        yield Shell(rig, database_url)


async def test_show_tells_all_of_a_saga(shell: Shell) -> None:
    """By its id or the beginning of it: columns, and records with the context they added; 3 for none, 2 for no id."""
    saga_id = await shell.saga(Held(), Placed(), Filled(), Settled())
    await shell.rig.reached(saga_id, "COMPLETED")
    shown, text, none, wrong = await asyncio.gather(
        shell.run("show", str(saga_id)[:13], "--json"),
        shell.run("show", str(saga_id)),
        shell.run("show", str(uuid4()), "--json"),
        shell.run("show", "what"),
    )
    assert shown.code == 0, shown.err
    assert (shown.json["saga_id"], shown.json["state"]) == (str(saga_id), "COMPLETED")
    assert shown.json["completed_steps"] == ["hold", "place", "fill", "settle"]
    assert [event["context_added"] for event in shown.json["events"]] == [
        "order-asked", "held", "placed", "filled", "settled",
    ]  # fmt: skip
    assert "COMPLETED" in text.out
    assert f"{shell.rig.saga.name}.settled.v1" in text.out
    assert (none.code, none.error) == (3, "not-found")
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err.splitlines()[-1].startswith("tradesaga: 'what' is not a saga id")


async def test_list_filters_and_pages(shell: Shell) -> None:
    """State, account and symbol choose; pages follow one another without gap or repeat; JSON comes one a line."""
    sagas: list[UUID] = []
    for _ in range(5):
        sagas.append(await shell.saga())
        # One after the other: of starts on their way at once to two partitions, either may be the broker's first.
        await shell.rig.reached(sagas[-1], "IDLE")
    ended = await shell.saga(HoldRefused())
    await shell.rig.reached(ended, "ABORTED")
    aborted, nobody, everybody, first, since = await asyncio.gather(
        shell.run("list", "--state", "aborted", "--json"),
        shell.run("list", "--account", "B", "--json"),
        shell.run("list", "--account", "A", "--symbol", "EUR/USD", "--json", "--limit", "0"),
        shell.run("list", "--limit", "4", "--json"),
        shell.run("list", "--since", "yesterday"),
    )
    assert [json.loads(line)["saga_id"] for line in aborted.out.splitlines()] == [str(ended)]
    assert (nobody.code, nobody.out) == (0, "")
    newest = [json.loads(line)["saga_id"] for line in everybody.out.splitlines()]
    assert newest == [str(saga_id) for saga_id in (ended, *reversed(sagas))]
    page = [json.loads(line)["saga_id"] for line in first.out.splitlines()]
    second = await shell.run("list", "--limit", "4", "--json", "--after", page[-1])
    assert page + [json.loads(line)["saga_id"] for line in second.out.splitlines()] == newest
    assert since.code == 2


async def test_a_recheck_is_published_and_judged(shell: Shell) -> None:
    """For a saga that is said to have filled and has not: it is asked after from its first step on."""
    saga_id = await shell.saga(Held(), Placed(), Filled())
    await shell.rig.recorded(4)
    done = await shell.run("recheck", str(saga_id), "--reason", "its fill is forged", "--wait", "--json")
    assert done.code == 0, done.err
    assert done.json["state"] == "COMPENSATING"
    assert (await shell.run("recheck", str(saga_id), "--reason", "", "--json")).code == 2


async def test_an_abort_is_checked_published_and_judged(shell: Shell) -> None:
    """It names who and why, the saga log acts on it, and a saga that has ended refuses it with exit code 4."""
    saga_id = await shell.saga(Held())
    await shell.rig.reached(saga_id, "RUNNING")
    done = await shell.run("abort", str(saga_id), "--reason", "wrong account", "--wait", "--json")
    assert (done.code, done.json["state"]) == (0, "COMPENSATING"), done.err
    row = (await shell.rig.events(saga_id))[-1]
    assert json.loads(row["value"]) == {"operator": "ann", "reason": "wrong account"}
    assert json.loads(row["headers"])["ce_id"] == done.json["id"]
    ended = await shell.saga(HoldRefused())
    await shell.rig.reached(ended, "ABORTED")
    late, empty = await asyncio.gather(
        shell.run("compensate", str(ended), "--reason", "again", "--json"),
        shell.run("abort", str(saga_id), "--reason", "", "--json"),
    )
    assert (late.code, late.error) == (4, "refused")
    assert empty.code == 2


async def test_a_failed_saga_is_mended_by_hand(shell: Shell) -> None:
    """Retry finds the failed step itself; skip leaves it standing; resolve closes; each is refused elsewhere."""
    sagas = [await shell.saga(Held(), Placed(), StepFailed(step="fill", attempts=1, reason="no")) for _ in range(2)]
    for saga_id in sagas:
        await shell.rig.reached(saga_id, "COMPENSATING")
        await shell.rig.say(saga_id, Unplaced())
        await shell.rig.say(saga_id, CompensationFailed(step="hold", attempts=9, reason="locked"))
        await shell.rig.reached(saga_id, "FAILED")
    again, other = map(str, sagas)
    why = await shell.run("why", again, "--json")
    assert "a person is needed" in why.json["summary"]
    assert why.json["waits_for"][0]["step"] == "hold"
    retried, skipped = await asyncio.gather(
        shell.run("retry", again, "--reason", "unlocked", "--wait", "--json"),
        shell.run("skip", other, "--step", "hold", "--reason", "written off", "--wait", "--json", "--operator", "bob"),
    )
    assert (retried.code, skipped.code) == (0, 0), retried.err + skipped.err
    assert retried.json["state"] == "COMPENSATING"
    assert skipped.json["state"] == "FAILED"
    await shell.rig.say(sagas[0], Unheld(), round=2)
    await shell.rig.reached(sagas[0], "ABORTED")
    resolved, refused, unknown = await asyncio.gather(
        shell.run("resolve", other, "aborted", "--reason", "see ticket 7", "--wait", "--json"),
        shell.run("resolve", again, "COMPLETED", "--reason", "no"),
        shell.run("retry", other, "--step", "never", "--reason", "no"),
    )
    assert resolved.json["state"] == "ABORTED", resolved.err
    assert (refused.code, unknown.code) == (4, 2)


async def test_why_names_a_group_that_has_halted(shell: Shell) -> None:
    """The sentence is the group's own, whether or not its process can be asked."""
    saga_id = await shell.saga()
    await shell.rig.reached(saga_id, "IDLE")
    told = await shell.run("why", str(saga_id), "--json")
    assert told.json["halted"] == {}
    # Every lane is past the end of its partition: records are gone.
    await shell.rig.pool.execute("UPDATE lane SET next_offset = next_offset + 1000000")
    told, text = await asyncio.gather(shell.run("why", str(saga_id), "--json"), shell.run("why", str(saga_id)))
    group = f"{shell.rig.saga.name}-log"
    assert "the broker holds" in told.json["halted"][group]
    assert told.json["summary"].startswith(f"{group} halted: ")
    assert "tradesaga recover topics" in told.json["summary"]
    assert "halted" in text.out


async def test_a_parked_record_is_seen_and_released(shell: Shell) -> None:
    """`why` and `parked` name its place; `release` lets it go; a second release, or one of nothing, is refused."""
    saga_id = await shell.saga()
    await shell.rig.reached(saga_id, "IDLE")
    headers = headers_of(shell.rig.saga, Held(), saga_id)
    bad = await shell.rig.put(shell.rig.topic("events"), str(saga_id).encode(), b"{", headers)
    await shell.rig.say(saga_id, Held())
    await shell.rig.recorded(3)
    place = (bad.topic, str(bad.partition), str(bad.offset))
    why, parked, none = await asyncio.gather(
        shell.run("why", str(saga_id), "--json"),
        shell.run("parked", "--json"),
        shell.run("release", bad.topic, "0", "99", "retry", "--reason", "x"),
    )
    assert " ".join(place) in why.json["summary"]
    assert [json.loads(line)["offset"] for line in parked.out.splitlines()] == [bad.offset, bad.offset + 1]
    assert none.code == 3
    done = await shell.run("release", *place, "discard", "--reason", "cut off", "--wait", "--json")
    assert (done.code, done.json["state"]) == (0, "RUNNING"), done.err
    again = await shell.run("release", *place, "discard", "--reason", "x")
    assert again.code == 4


async def test_watch_follows_a_saga_to_its_end(shell: Shell) -> None:
    """It prints each record and leaves with 0 for a completed saga, 1 for another, 5 when time is up."""
    saga_id = await shell.saga(Held())
    lost = await shell.saga(HoldRefused())
    stuck = await shell.saga()
    for each, state in ((saga_id, "RUNNING"), (lost, "ABORTED"), (stuck, "IDLE")):
        await shell.rig.reached(each, state)
    watching = asyncio.create_task(shell.spawn("watch", str(saga_id), "--json"))
    for event in (Placed(), Filled(), Settled()):
        await shell.rig.say(saga_id, event)
    completed, aborted, late, everything = await asyncio.gather(
        watching,
        shell.run("watch", str(lost)),
        shell.run("watch", str(stuck), "--timeout", "0.5"),
        shell.run("watch", "--timeout", "1", "--json"),
    )
    assert completed.code == 0
    lines = [json.loads(line) for line in completed.out.splitlines()]
    assert [line["seq"] for line in lines[:-1]] == [1, 2, 3, 4, 5]
    assert lines[-1]["state"] == "COMPLETED"
    assert (aborted.code, late.code, everything.code) == (1, 5, 0)
    assert "ABORTED" in aborted.out
    assert json.loads(everything.out.splitlines()[-1])["IDLE"] == 1


async def test_why_names_the_step_and_its_owner(shell: Shell) -> None:
    """A saga under way waits for its next step; whoever owns it has never run, and the saga log is up to date."""
    saga_id = await shell.saga(Held())
    await shell.rig.reached(saga_id, "RUNNING")
    why, text = await asyncio.gather(shell.run("why", str(saga_id), "--json"), shell.run("why", str(saga_id)))
    assert why.code == 0, why.err
    (step,) = why.json["waits_for"]
    assert (step["step"], step["to"], step["owner"]) == ("place", "report", None)
    assert why.json["saga_log"]["lag"] == 0
    assert why.json["deadline"]["in_seconds"] > 200
    assert "place is to report" in text.out


async def test_the_reasons_of_failures_are_shown(shell: Shell) -> None:
    """A handler that raised: which step, which attempt, and what it raised, in `show` and in `why`."""
    tried = AttemptFailed(step="place", direction="forward", attempt=1, reason="ValueError: no such box")
    failed = StepFailed(step="place", attempts=3, reason="ValueError: still no such box")
    saga_id = await shell.saga(Held(), tried, failed, Unheld())
    await shell.rig.reached(saga_id, "ABORTED")
    text, why, sentence = await asyncio.gather(
        shell.run("show", str(saga_id)), shell.run("why", str(saga_id), "--json"), shell.run("why", str(saga_id))
    )
    assert "attempt 1: ValueError: no such box" in text.out
    assert "attempt 3: ValueError: still no such box" in text.out
    reason = "attempt 3: ValueError: still no such box"
    assert why.json["failures"] == [{"step": "place", "event": "step-failed", "reason": reason}]
    assert why.json["summary"] == f"it has ended: ABORTED (place: {reason})"
    assert f"place, step-failed: {reason}" in sentence.out


async def test_servers_that_are_not_there_are_named(shell: Shell) -> None:
    """Without a database, and without Kafka, a command ends with 5 and one sentence."""
    saga_id = await shell.saga()
    await shell.rig.reached(saga_id, "IDLE")
    shell.environment["TRADESAGA_KAFKA"] = "127.0.0.1:1"
    lost = await shell.spawn("abort", str(saga_id), "--reason", "x", "--json")
    why = await shell.run("why", str(saga_id), "--json")
    shell.environment["TRADESAGA_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
    gone = await shell.spawn("list", "--json")
    assert (lost.code, lost.error) == (5, "kafka-unavailable")
    assert (why.code, why.json["kafka"]) == (0, False)
    assert (gone.code, gone.out) == (5, "")
    assert gone.error.startswith("database")
