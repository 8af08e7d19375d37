"""Mutants of rules that are pure: what database and topics, versions, deadlines and hashes are judged by.

Each drops one rule; `attack` raises `AssertionError` once it is gone, in milliseconds and without any server.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from tests.mutants.surgery import changed, everywhere, replaced, rewritten
from tests.simulation import pause_scripts
from tests.simulation.rigs import Sessions, sim_sessions, simulate
from tests.unit.consumers.audit.log import test_verification as verifying
from tests.unit.consumers.saga_log import test_fold as folding
from tests.unit.consumers.saga_log import test_fold_parking as parking
from tests.unit.consumers.saga_log import test_fold_versions as versions
from tests.unit.consumers.saga_log.rig import Log
from tests.unit.infra.audit_log import test_seals as sealing
from tests.unit.infra.outbox import test_guard as guard
from tests.unit.infra.outbox import test_guard_order as order
from tradesaga.consumers.audit.log import log_check
from tradesaga.consumers.recovery import refusals
from tradesaga.consumers.runtime import dispatch
from tradesaga.consumers.runtime.held_steps import HeldSteps
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.saga_log import advance, chain, fold, reading
from tradesaga.infra.audit_log import seals
from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.note import Signer
from tradesaga.infra.audit_log.seals import SealTrust, read_seals
from tradesaga.infra.errors import CommandError
from tradesaga.infra.kafka import topics
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.inspector import Inspector, TopicState
from tradesaga.infra.outbox import guard_rules
from tradesaga.infra.outbox.guard import Guard
from tradesaga.infra.outbox.processor import HaltError
from tradesaga.infra.postgres.installation import Identity
from tradesaga.schemas.topics import checkpoints_topic, saga_topics

Plant = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class RuleMutant:
    """One hole, and what gives it away: `attack` raises `AssertionError` while it is planted, and else nothing."""

    name: str
    plant: Plant
    attack: Callable[[], None]


def _accept(*_: Any) -> None:
    """Find nothing wrong."""


def _yes(*_: Any) -> bool:
    """Believe anybody."""
    return True


def _no(*_: Any) -> bool:
    """Take no time for too early."""
    return False


def _dropped(name: str) -> Plant:
    """Drop one comparison of the guard."""
    return lambda: replaced(guard_rules, name, _accept)


def _changed(owner: Any, name: str, before: str, after: str) -> Plant:
    def plant() -> AbstractContextManager[Any]:
        former = getattr(owner, name)
        return everywhere(former, rewritten(former, (before, after)))

    return plant


def _in_simulation(script: Callable[[Sessions], Awaitable[Any]]) -> Callable[[], None]:
    """Run a script on the simulated database."""

    def attack() -> None:
        simulate(script, sim_sessions)

    return attack


def _halts(found: guard_rules.Evidence) -> Callable[[], None]:
    """Expect the guard to refuse what was found."""

    def attack() -> None:
        try:
            guard_rules.check_evidence(found)
        except HaltError:
            return
        raise AssertionError("the group would have gone on")

    return attack


class _Kafka:
    """A checkpoints topic with one record."""

    def __init__(self, note: str) -> None:
        self._record = Record(checkpoints_topic("t"), 0, 0, 1, b"k", note.encode(), ())

    async def topics(self, names: Collection[str]) -> dict[str, TopicState]:
        """Return the one topic."""
        return dict.fromkeys(names, TopicState(guard.TOPIC.id, 1))

    async def ranges(self, places: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return that it has one record."""
        return dict.fromkeys(places, (0, 1))

    async def scan(self, ranges: Mapping[Partition, tuple[int, int]]) -> AsyncGenerator[list[Record]]:
        """Yield it."""
        for _ in ranges:
            yield [self._record]


def _forge_checkpoint() -> None:
    """Sign a checkpoint with a key that nobody trusts."""
    ours, theirs = Signer.generate("ours").verifier, Signer.generate("ours")
    note = theirs.sign(Checkpoint("tradesaga/t.events/0", 9, bytes(32), 9, "", 1).to_text())
    trust = SealTrust("tradesaga", {ours.id: ours})
    assert asyncio.run(read_seals(cast("Inspector", _Kafka(note)), "t", trust)) == {}


def _compact_topic() -> None:
    """Have the broker keep the last fact of each saga only."""
    topic, policy = saga_topics("t")[0], topics.TopicPolicy()
    held = {**topic.configuration, "cleanup.policy": "compact"}
    found = topics.Described(topic.partitions, policy.replicas, held)
    assert [each.setting for each in topics.find_deviations(topic, policy, found)] == ["cleanup.policy"]


def _move_keys() -> None:
    """Make a lost topic again with fewer partitions than its records had."""
    try:
        refusals.refuse_partitions([("t.events", 12)], {"t.events": 3})
    except CommandError:
        return
    raise AssertionError("the keys would have moved")


def _send_deadline_early() -> None:
    """Send the deadline's fact long before its time."""
    folding.test_an_early_deadline_is_recorded_and_comes_again(_started())


def _park_much() -> None:
    """Have more wait than one deadline lets go."""
    with pytest.MonkeyPatch.context() as patch:
        parking.test_what_waits_of_an_ended_saga_is_let_go(patch, _started())


def _started() -> Log:
    log = Log()
    log.start()
    return log


def _differ(one: Record, other: Record) -> None:
    assert chain.link(b"", one) != chain.link(b"", other)


_RECORD = Record("t.events", 0, 7, 1, b"key", b"{}", (("a", b"xy"), ("b", b"")))
_IS_NEWEST = "version == rules.saga.version"
_RECORDS = "\n        _check_records(found, lane)"


def _remove_row() -> None:
    """Remove a row in the middle, and seal what is left."""
    rows = verifying.strays([0, 0, 0])
    left = [rows[0], rows[2]]
    assert verifying.check(left, [verifying.sealed_as_is(left)], None).findings


RULE_MUTANTS = (
    RuleMutant("offsets not compared", _dropped("_check_offsets"), _halts(guard.found(guard.lane(), offset=11))),
    RuleMutant(
        "the identity beside offsets not compared",
        _dropped("_check_identity"),
        _halts(guard.found(guard.lane(), offset=2, by=Identity(guard.HERE.installation, 4))),
    ),
    RuleMutant(
        "an empty database starts from the beginning", _dropped("_check_history"), _halts(guard.found(offset=10, by=""))
    ),
    RuleMutant(
        "a topic's id and partitions not compared",
        _dropped("_check_topic"),
        _halts(guard.found(guard.lane(), topic=TopicState(guard.TOPIC.id, 24))),
    ),
    RuleMutant(
        "the last record not compared",
        _changed(guard_rules, "_check_records", "if record_checksum(record) != lane.seen:", "if False:"),
        _halts(guard.found(guard.lane(), record=guard.RECORD._replace(value=b"[]"))),
    ),
    RuleMutant(
        "a truncated topic halts only its readers",
        _changed(guard_rules, "check_evidence", f"found.lanes:{_RECORDS}", f"found.own:{_RECORDS}"),
        _halts(guard.found(guard.OTHERS, held=(0, 9))),
    ),
    RuleMutant(
        "seals not compared",
        _dropped("_check_seals"),
        _halts(replace(guard.found(guard.lane(), guard.saga_log(11)), seals=guard.sealed(12))),
    ),
    RuleMutant("checkpoints of any key accepted", lambda: replaced(seals, "_is_signed", _yes), _forge_checkpoint),
    RuleMutant(
        "a republished old seal ends the search",
        lambda: replaced(seals, "_is_prompt", _yes),
        sealing.test_an_old_seal_that_somebody_publishes_once_more_does_not_end_the_search,
    ),
    RuleMutant(
        "the database read before Kafka",
        lambda: changed(Guard, "_collect", ("lanes = await self._read_lanes(sql)", "lanes = known")),
        lambda: order.test_no_halt_while_the_saga_log_works_between_two_reads(range(order.READS)),
    ),
    RuleMutant(
        "topic settings not compared",
        _changed(topics, "find_deviations", "not bound.accepts(values[setting])", "False"),
        _compact_topic,
    ),
    RuleMutant(
        "topics made again with any number of partitions",
        _changed(refusals, "refuse_partitions", "if wanted.get(topic, number) != number:", "if False:"),
        _move_keys,
    ),
    RuleMutant(
        "a saga run under the newest version",
        _changed(reading, "_own_rules", f"rules if {_IS_NEWEST} else rules.versions.get(version)", "rules"),
        versions.test_versions_change_under_a_saga_on_its_way,
    ),
    RuleMutant(
        "an early deadline counts",
        lambda: everywhere(advance.is_early, _no),
        _send_deadline_early,
    ),
    RuleMutant(
        "a deadline without ts_overtakes is the last one",
        _changed(advance, "_is_deadline_pending", "if folded.state.unblocked", "if folded.state.overdue"),
        lambda: parking.test_a_deadline_that_overtakes_nothing_leaves_the_saga_its_own(_started()),
    ),
    RuleMutant(
        "one deadline for any number of parked records",
        _changed(fold, "_with_tried", "deadline_pending=left", "deadline_pending=False"),
        _park_much,
    ),
    RuleMutant(
        "the key left out of the leaf",
        _changed(chain, "encode", "record.topic.encode(), record.key,", 'record.topic.encode(), b"",'),
        lambda: _differ(_RECORD, _RECORD._replace(key=b"another")),
    ),
    RuleMutant(
        "headers concatenated in the leaf",
        _changed(chain, "encode", "names.encoded, lengths,", "names.encoded,"),
        lambda: _differ(_RECORD, _RECORD._replace(headers=(("a", b"x"), ("b", b"y")))),
    ),
    RuleMutant(
        "skipped offsets left out of the leaf",
        _changed(chain, "encode", "record.recorded_ms, record.skipped", "record.recorded_ms, 0"),
        lambda: _differ(_RECORD, _RECORD._replace(skipped=3)),
    ),
    RuleMutant(
        "skipped offsets accepted anywhere",
        lambda: changed(log_check.LogCheck, "_reach", ("elif following > self._next_offset:", "elif False:")),
        _remove_row,
    ),
    RuleMutant(
        "the end of a pause not noticed",
        lambda: changed(HeldSteps, "read", ("if self.pauses <= pauses:", "if True:")),
        _in_simulation(pause_scripts.a_pause_ends_while_a_batch_holds_a_step),
    ),
    RuleMutant(
        "pauses not read while nothing arrives",
        lambda: changed(StepProcessor, "committed", ("elapsed() + CHECK_PAUSES if self._held.held else None", "None")),
        _in_simulation(pause_scripts.a_pause_is_noticed_when_it_ends),
    ),
    RuleMutant(
        "held steps not checked by a new owner",
        lambda: changed(StepProcessor, "open", ("dict.fromkeys(held.following, HELD_FROM)", "{}")),
        _in_simulation(pause_scripts.a_pause_ends_while_nobody_owns_the_lanes),
    ),
    RuleMutant(
        "held steps checked without a commit",
        lambda: changed(StepProcessor, "apply", ("self._next_held = held", "self._held = self._next_held = held")),
        _in_simulation(pause_scripts.a_batch_that_has_started_steps_is_rolled_back),
    ),
    RuleMutant(
        "held steps checked once for two pauses",
        lambda: changed(HeldSteps, "read", ("self.again | begun", "self.again")),
        _in_simulation(pause_scripts.a_second_pause_ends_while_rows_are_checked),
    ),
    RuleMutant(
        "a held step left on the lane of another owner",
        _changed(dispatch, "_hold", "row.lane = lane", "pass"),
        _in_simulation(pause_scripts.a_step_is_held_for_the_owner_of_another_lane),
    ),
)  # fmt: skip
