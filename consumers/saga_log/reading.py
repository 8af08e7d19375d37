"""Read a record's fact, or the reason why it cannot be folded."""

from collections.abc import Mapping
from typing import Final, NamedTuple
from uuid import UUID

import orjson
from pydantic import ValidationError

from tradesaga.consumers.saga_log.tracked_saga import SagaSnapshot
from tradesaga.infra.clock import parse_time, read_id
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.infra.registry.sagas import UNKNOWN_VERSION
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.facts import Fact, Vocabulary
from tradesaga.sagas.machine import Machine, State
from tradesaga.schemas.envelope import (
    ENCRYPTED,
    OVERTAKES,
    REQUEST,
    SAGA_ID,
    SPEC,
    SPECVERSION,
    STEP,
    TYPE,
    VERSION,
    foreign_specversion,
)
from tradesaga.schemas.invalid import describe_invalid
from tradesaga.schemas.messages.lifecycle import DeadlineElapsed, ParkReleased, StartRefused
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.topics import PARTITIONS, events_topic

CONTEXT_CEILING: Final = 512 * 1024
"""Bytes of context above which a fact is parked: a command that carried more would exceed the broker's limit."""


class Rules:
    """What the fold needs of a definition, without any saga's state. `partitions` is the topic's partition count.

    These are the rules of the version under which new sagas start; `under` returns those of the others.
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
        """The version of a start without one, which an older release wrote."""

    def under(self, version: int) -> "Rules":
        """Return the rules of a version of the saga; raises `KeyError` for one that is not registered."""
        return self.versions[version]

    def home(self, saga_id: UUID) -> int:
        """Return the partition of the saga's records."""
        return partition_of(str(saga_id).encode(), self.partitions)

    def names(self, steps: int) -> str:
        """Return the names of a set of steps as a JSON array."""
        known = self._names.get(steps)
        if known is None:
            known = self._names[steps] = orjson.dumps(self.machine.names(steps)).decode()
        return known

    def first_open(self, state: State) -> int:
        """Return the index of the first step that is not done; after the last one when all are."""
        return (~state.done & state.done + 1).bit_length() - 1

    def cause(self, state: State) -> str:
        """Return, for people, why the saga is compensated."""
        causes = self._list(
            ("refused", state.refused),
            ("failed", _failed(state)),
            ("outcome unknown", state.unknown & ~state.done),
            ("barred", state.barred & ~state.done),
        )
        if state.taking_back:
            causes.insert(0, "the deadline has elapsed" if state.overdue else "an operator has aborted it")
        return "; ".join(causes)

    def stands(self, state: State) -> str:
        """Return, for people, which steps are done and should not be, or the other way round."""
        passed = self.machine.passed(state)
        found = self._list(
            ("done and not compensated", 0 if passed else state.done & ~state.compensated),
            ("compensated after the pivot", state.compensated if passed else 0),
            ("unanswered and unowned", self.machine.unanswered(state)),
            ("will not happen", (state.refused | state.barred | _failed(state)) & ~state.done),
        )
        contradicted = sorted({int(each.split(":")[0]) for each in state.contradictions})
        found += [f"contradicted from outside: {self.saga.steps[index].name}" for index in contradicted]
        return "; ".join(found)

    def _list(self, *found: tuple[str, int]) -> list[str]:
        """Return each description with the names of its steps, without those of no step."""
        return [f"{what}: {', '.join(self.machine.names(steps))}" for what, steps in found if steps]


def _failed(state: State) -> int:
    """Return the set of steps that failed in their current round."""
    rounds = enumerate(zip(state.failed, state.rounds, strict=True))
    return sum(1 << index for index, (failed, current) in rounds if failed == current) & ~state.done


REQUIRED: Final = (TYPE, "ce_id", "ce_source", "ce_time")

MAX_ROUND: Final = 2**31 - 1

MAX_TIME: Final = 2**63 - 1

_TEXT_LIMIT: Final = 500

_ID_LIMIT: Final = 2000
"""Characters of the id of a decision or a contradiction, which the saga keeps for ever."""


class UnfoldableError(ValueError):
    """A record cannot be folded into its saga; `kind` labels it in the metrics.

    The reason is stored in the audit log, and a replay compares it: texts of reasons must not change.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(clean(reason))
        self.kind = kind


class Reading(NamedTuple):
    """A record's fact, and the headers that the fold uses; `rules` are those of its saga's version."""

    fact: Fact
    type: str
    request_hash: str
    rules: Rules
    overtakes: bool = False


def saga_of(record: Record) -> UUID | None:
    """Return the saga id of a record's header, or None if it is not canonical."""
    return read_saga(record.header(SAGA_ID))


def read_saga(raw: bytes) -> UUID | None:
    """Read a saga id; returns None if it is not in its canonical spelling."""
    try:
        found = read_id(raw.decode())
    except ValueError:
        return None
    return found if str(found).encode() == raw else None


def read(rules: Rules, snapshot: SagaSnapshot | None, record: Record, headers: Mapping[str, bytes]) -> Reading:
    """Read a record under its saga's version; raises `UnfoldableError`.

    `headers` are the record's, by name.
    """
    for name in REQUIRED:
        if not headers.get(name):
            raise UnfoldableError("headers", f"header {name} is missing")
    _refuse_foreign(headers)
    try:
        ce_type, ce_id = headers[TYPE].decode(), headers["ce_id"].decode()
        step, request_hash = (headers.get(STEP) or b"").decode(), (headers.get(REQUEST) or b"").decode()
        round_ = int(headers.get("ts_round") or 1)
    except ValueError as error:
        raise UnfoldableError("headers", f"a header cannot be read: {error}") from None
    if not 1 <= round_ <= MAX_ROUND:
        raise UnfoldableError("headers", f"header ts_round is {round_}")
    rules = _own_rules(rules, ce_type, snapshot, headers)
    try:
        fact = rules.vocabulary.read(ce_type, ce_id, step, round_, record.value)
    except KeyError as error:
        raise UnfoldableError("unknown-type", _unknown(rules, ce_type, error)) from None
    except ValidationError as error:
        raise UnfoldableError("invalid-value", describe_invalid(error, "value")) from None
    if len(fact.id) > _ID_LIMIT:
        raise UnfoldableError("headers", f"an id of {len(fact.id)} characters; {_ID_LIMIT} are allowed")
    return Reading(fact, ce_type, request_hash, rules, OVERTAKES in headers)


def _own_rules(rules: Rules, ce_type: str, snapshot: SagaSnapshot | None, headers: Mapping[str, bytes]) -> Rules:
    """Choose the rules of the saga's version: its snapshot's or, before the start, the record's.

    A release is the same in all versions, and may release records that are parked for their version.
    """
    if ce_type == rules.released:
        return rules
    try:
        version = snapshot.version if snapshot is not None else int(headers.get(VERSION) or rules.unversioned)
    except ValueError as error:
        raise UnfoldableError("headers", f"a header cannot be read: {error}") from None
    own = rules if version == rules.saga.version else rules.versions.get(version)
    if own is None:
        known = ", ".join(map(str, sorted(rules.versions)))
        running = f"{UNKNOWN_VERSION} {version} of {rules.saga.name!r}"
        raise UnfoldableError("version", f"{running}; this saga log knows version {known}")
    if snapshot is not None and snapshot.sealed:
        what = f"the saga's progress was not written under version {version} of {rules.saga.name!r} as it is here"
        raise UnfoldableError("version", f"{what}; a changed definition needs a version of its own")
    return own


def awaited_version(reason: str) -> int:
    """Return the version that a record was parked for; 0 if it was parked for another reason."""
    words = reason.removeprefix(UNKNOWN_VERSION).split()
    return (
        int(words[0])
        if reason.startswith(UNKNOWN_VERSION) and words and words[0].isascii() and words[0].isdigit()
        else 0
    )


def _refuse_foreign(headers: Mapping[str, bytes | None]) -> None:
    """Raise `UnfoldableError` for a record that this release does not read: another specversion, an encrypted value."""
    if headers.get(SPECVERSION, SPEC) != SPEC:
        raise UnfoldableError("specversion", foreign_specversion(headers[SPECVERSION]))
    if (headers.get("content-type") or b"").startswith(ENCRYPTED):
        raise UnfoldableError("encrypted", "the value is encrypted, which this release does not read")


def clean(text: str) -> str:
    """Escape NUL characters, which PostgreSQL cannot store, and cut the text to `_TEXT_LIMIT`."""
    return text.replace("\0", "\\0")[:_TEXT_LIMIT]


def event_time(headers: Mapping[str, bytes]) -> int | None:
    """Return `ce_time` in nanoseconds, or None if it is no time that 64 bits hold."""
    try:
        found = parse_time((headers.get("ce_time") or b"").decode())
    except (ValueError, OverflowError):
        return None
    return found if -MAX_TIME <= found <= MAX_TIME else None


def started(headers: Mapping[str, bytes]) -> int | None:
    """Return `ts_started`, the nanoseconds at which the attempt began, or None."""
    try:
        found = int(headers.get("ts_started") or 0)
    except ValueError:
        return None
    return found if 0 < found <= MAX_TIME else None


def _unknown(rules: Rules, ce_type: str, error: KeyError) -> str:
    missing = str(error.args[0]) if error.args else ""
    if missing == ce_type:
        return f"no message {ce_type!r} is known to saga {rules.saga.name!r} version {rules.saga.version}"
    return f"saga {rules.saga.name!r} version {rules.saga.version} has no step {missing!r}"
