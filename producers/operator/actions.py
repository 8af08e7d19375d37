"""Operator actions: checked against the saga's checkpoint, then published; they take effect when they are folded."""

import getpass
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.kafka.facts import PartitionOffset, make_fact, publish
from tradesaga.infra.outbox.publish import find_rejected, mark_resent
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.registry.sagas import find_saga
from tradesaga.infra.saga_queries import ProgressError, decode_progress, find_id, read_row, unknown_saga
from tradesaga.infra.settings import Settings
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.facts import Vocabulary
from tradesaga.sagas.machine import Machine
from tradesaga.schemas.messages.lifecycle import OperatorFact, ParkReleased
from tradesaga.schemas.messages.message import wire_type

_NOTHING: Final = "no step has failed in a way that this action resolves"
_PARKED: Final = """
SELECT saga_id, released FROM parked WHERE topic = $1 AND partition = $2 AND "offset" = $3 AND saga_id IS NOT NULL
ORDER BY released NULLS FIRST LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Published:
    """A published action: its topic, saga, id and position."""

    topic: str
    saga_id: UUID
    id: UUID
    written: PartitionOffset


@dataclass(frozen=True, slots=True)
class SagaView:
    """A saga's checkpoint with the saga's definition."""

    saga_id: UUID
    definition: AnySaga
    row: asyncpg.Record

    def refusal(self, fact: OperatorFact) -> str:
        """Return why the saga would refuse this action now; empty if it would accept it."""
        saga = self.definition.versions.get(self.row["version"])
        if saga is None:
            known = ", ".join(map(str, sorted(self.definition.versions)))
            return f"it runs under version {self.row['version']} of its definition; this program knows {known}"
        machine = Machine(saga)
        step = str(getattr(fact, "step", ""))
        try:
            state = decode_progress(machine, self.row["progress"])
            named = Vocabulary(saga).read(wire_type(saga.name, type(fact)), str(uuid4()), step, 1, fact.to_wire())
        except ProgressError:
            return f"its progress was written under another version {saga.version} of its definition than the one here"
        except KeyError:
            known = ", ".join(each.name for each in saga.steps)
            raise CommandError(
                "step-unknown", f"saga {saga.name!r} has no step {step!r}", "--step", f"known: {known}", ExitCode.USAGE
            ) from None
        return machine.fold(state, named).refusal

    def choose_step(self, make: Callable[[str], OperatorFact]) -> OperatorFact:
        """Make the action for the only step that accepts it. Raises `CommandError`: exit 2 if several do, 4 if none."""
        saga = self.definition.versions.get(self.row["version"], self.definition)
        facts = [make(step.name) for step in saga.steps]
        accepted = [fact for fact in facts if not self.refusal(fact)]
        if len(accepted) > 1:
            do = f"give --step: {', '.join(str(getattr(fact, 'step', '')) for fact in accepted)}"
            what = "several steps accept this action"
            raise CommandError("step-needed", what, str(self.saga_id), do, ExitCode.USAGE)
        if not accepted:
            raise refused(self.saga_id, self.refusal(facts[0]) if self.row["state"] != "FAILED" else _NOTHING)
        return accepted[0]


def operator_name(given: str | None) -> str:
    """Return `given`, or the name of the user who is logged in."""
    return given or os.environ.get("USER") or getpass.getuser()


async def open_saga(sql: Connection, settings: Settings, text: str) -> SagaView:
    """Return a saga by its id or the beginning of it. Raises `CommandError` (exit 2 or 3)."""
    saga_id = await find_id(sql, text)
    row = await read_row(sql, saga_id)
    if row is None:
        raise unknown_saga(text)
    return SagaView(saga_id, find_saga(row["name"], settings.app), row)


async def decide(settings: Settings, view: SagaView, fact: OperatorFact) -> Published:
    """Publish an action. Raises `CommandError`: exit 4 if the saga would refuse it, exit 5 if Kafka fails."""
    if refusal := view.refusal(fact):
        raise refused(view.saga_id, refusal)
    return await _publish(settings, view.definition.name, view.saga_id, fact)


async def release(sql: Connection, settings: Settings, released: ParkReleased) -> Published:
    """Publish the release of a parked record.

    Raises `CommandError`: exit 3 if none is parked there, exit 4 if it was released before.
    """
    where = f"{released.topic}[{released.partition}] offset {released.offset}"
    row = await sql.fetchrow(_PARKED, released.topic, released.partition, released.offset)
    if row is None:
        do = "see `tradesaga parked`"
        raise CommandError("not-parked", "nothing is parked there", where, do, ExitCode.NOT_FOUND)
    if row["released"] is not None:
        what = f"it has been released already ({row['released']})"
        raise CommandError("released-already", what, where, "see `tradesaga parked`", ExitCode.REFUSED)
    saga = find_saga(released.topic.removesuffix(".events"), settings.app)
    return await _publish(settings, saga.name, row["saga_id"], released)


async def resend(sql: Connection, settings: Settings, lane: int, seq: int) -> tuple[Outgoing, PartitionOffset]:
    """Publish a row that the broker had rejected.

    Raises `CommandError`: exit 3 if there is none, exit 4 if it was published before, exit 5 if the broker still
    rejects it. A row that is published twice is processed once, since readers know a record by its id.
    """
    row, where = await find_rejected(sql, lane, seq), f"outbox row {lane}/{seq}"
    if row is None:
        do = "see `tradesaga parked`, and name the service's database with --service"
        raise CommandError("not-parked", "the broker has rejected no such row", where, do, ExitCode.NOT_FOUND)
    if row.released:
        do = "see `tradesaga parked`"
        raise CommandError("released-already", "it has been published already", where, do, ExitCode.REFUSED)
    written = await publish(settings.brokers(), row.record)
    await mark_resent(sql, lane, seq)
    return row.record, written


def refused(saga_id: UUID, reason: str) -> CommandError:
    """Return the error for an action that the saga refuses (exit 4)."""
    do = f"see `tradesaga why {saga_id}`"
    return CommandError("refused", f"the saga refuses: {reason}", str(saga_id), do, ExitCode.REFUSED)


async def _publish(settings: Settings, saga: str, saga_id: UUID, fact: OperatorFact) -> Published:
    step = str(getattr(fact, "step", ""))
    record = make_fact(saga, saga_id, fact, f"/{saga}/operator-desk", step)
    written = await publish(settings.brokers(), record)
    return Published(record.topic, saga_id, record.id, written)
