"""One saga's definition, compiled for folding."""

from typing import Final
from uuid import UUID

import orjson

from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.facts import Vocabulary
from tradesaga.sagas.machine import Machine, State
from tradesaga.schemas.messages.lifecycle import DeadlineElapsed, ParkReleased, StartRefused
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.topics import PARTITIONS, events_topic

CONTEXT_CEILING: Final = 512 * 1024
"""Bytes of context at which a fact is set aside: a command that carried more would not fit through the broker."""


class Rules:
    """What folding needs of a definition; holds no state of any saga. `partitions` is the count of the topic's.

    These are the rules of the version under which new sagas start; `under` gives those of the others.
    """

    def __init__(self, saga: AnySaga, partitions: int = PARTITIONS) -> None:
        self.saga = saga
        self.partitions = partitions
        self.topic = events_topic(saga.name)
        self.machine = Machine(saga)
        self.vocabulary = Vocabulary(saga)
        self.released = wire_type(saga.name, ParkReleased)
        self.elapsed = wire_type(saga.name, DeadlineElapsed)
        self.start_refused = wire_type(saga.name, StartRefused)
        self._names: dict[int, str] = {}
        self.deadline_ms = int(saga.deadline.total_seconds() * 1000)
        self.versions: dict[int, Rules] = {saga.version: self}
        self.versions |= {each.version: Rules(each, partitions) for each in saga.others}
        self.unversioned = 1 if 1 in self.versions else min(self.versions)
        """The version of a start that names none: it was written before starts named one."""

    def under(self, version: int) -> "Rules":
        """Return the rules of a version of the saga; raises `KeyError` for one that is not registered."""
        return self.versions[version]

    def home(self, saga_id: UUID) -> int:
        """Give the partition that the saga's records belong to."""
        return partition_of(str(saga_id).encode(), self.partitions)

    def names(self, steps: int) -> str:
        """Give the names of a set of steps as JSON."""
        known = self._names.get(steps)
        if known is None:
            known = self._names[steps] = orjson.dumps(self.machine.names(steps)).decode()
        return known

    def first_open(self, state: State) -> int:
        """Give the index of the first step that is not done; after the last one when all are."""
        return (~state.done & state.done + 1).bit_length() - 1

    def cause(self, state: State) -> str:
        """Say, for people, why the saga is taken back."""
        machine = self.machine
        told = [
            f"{what}: {', '.join(machine.names(steps))}"
            for what, steps in (
                ("refused", state.refused),
                ("failed", _failed(state)),
                ("outcome unknown", state.unknown & ~state.done),
                ("barred", state.barred & ~state.done),
            )
            if steps
        ]
        if state.taking_back:
            told.insert(0, "the deadline has elapsed" if state.overdue else "an operator has aborted it")
        return "; ".join(told)

    def stands(self, state: State) -> str:
        """Say, for people, what stands that should not, or does not that should."""
        machine = self.machine
        told = [
            f"{what}: {', '.join(machine.names(steps))}"
            for what, steps in (
                ("done and not taken back", 0 if machine.passed(state) else state.done & ~state.compensated),
                ("taken back after the pivot", state.compensated if machine.passed(state) else 0),
                ("unanswered, and owned by nobody", machine.unanswered(state)),
                ("will not happen", (state.refused | state.barred | _failed(state)) & ~state.done),
            )
            if steps
        ]
        contradicted = sorted({int(each.split(":")[0]) for each in state.contradictions})
        told += [f"contradicted from outside: {self.saga.steps[index].name}" for index in contradicted]
        return "; ".join(told)


def _failed(state: State) -> int:
    """Give the set of steps that failed in their current round."""
    rounds = enumerate(zip(state.failed, state.rounds, strict=True))
    return sum(1 << index for index, (failed, current) in rounds if failed == current) & ~state.done
