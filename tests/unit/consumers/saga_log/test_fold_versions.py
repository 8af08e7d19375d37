"""Each saga is folded under the version of its definition that its start names, whichever starts new sagas."""

from typing import Any

import pytest

from tests.sagas import Filled, Held, HoldRefused, OrderAsked, Partition, Placed, Settled, Unheld, Unhold, small_saga
from tradesaga.consumers.saga_log.commands import command
from tradesaga.consumers.saga_log.fold import FoldResult, fold_record
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.sagas.definition import AnySaga, saga, seconds
from tradesaga.sagas.machine import BarStep, CompensateStep
from tradesaga.sagas.status import Status
from tradesaga.sagas.step import step
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.lifecycle import AbortRequested, DeadlineElapsed, ParkReleased
from tradesaga.schemas.messages.message import Compensation, Event


class Checked(Event):
    """A step that version 2 has more."""


class Uncheck(Compensation):
    """Take it back."""


class Unchecked(Event):
    """It is taken back."""


def second() -> AnySaga:
    """Define version 2: `check` between `hold` and `place`, no `settle`, and half the time."""
    fill: Any = step("fill", on=Placed, emits=Filled)
    hold = step("hold", on=OrderAsked, emits=Held, rejects=HoldRefused, compensate=Unhold, compensated=Unheld)
    check = step("check", on=Held, emits=Checked, compensate=Uncheck, compensated=Unchecked)
    place: Any = step("place", on=Checked, emits=Placed)
    return saga("small", version=2, deadline=seconds(150)).then(hold).then(check).then(place).then(fill)


FIRST, SECOND = small_saga(), second()
DEPLOYED = {"forward": Rules(SECOND.alongside(FIRST)), "back": Rules(FIRST.alongside(SECOND))}
STORY = {1: (Held(), Placed(), Filled(), Settled()), 2: (Held(), Checked(), Placed(), Filled())}


class Log:
    """Folds records of one saga under whatever is deployed when they come."""

    def __init__(self, version: int = 0) -> None:
        self.partition = Partition(SECOND if version == 2 else FIRST)
        self.version = version
        self.tracked = Tracked(self.partition.saga_id, self.partition.number)

    def say(self, rules: Rules, event: Event, **given: int) -> FoldResult:
        """Fold an event."""
        record = self.partition.record(event, **given)
        outcome = fold_record(rules, self.tracked, record)
        self.tracked = outcome.tracked or self.tracked
        return outcome

    def start(self, rules: Rules) -> FoldResult:
        """Fold the start, which names its version unless that is 0."""
        return self.say(rules, OrderAsked(idempotency_key="k", account="A"), version=self.version)


@pytest.mark.parametrize("deployed", DEPLOYED)
@pytest.mark.parametrize(("named", "version"), [(0, 1), (1, 1), (2, 2)])
def test_a_saga_ends_as_its_version_says(deployed: str, named: int, version: int) -> None:
    """A start without a version is one of version 1; the version that starts new sagas makes no difference."""
    rules, log = DEPLOYED[deployed], Log(named)
    outcomes = [log.start(rules), *(log.say(rules, event) for event in STORY[version])]

    checkpoint = log.tracked.snapshot
    assert checkpoint is not None
    assert (checkpoint.version, checkpoint.status) == (version, Status.COMPLETED)
    assert checkpoint.deadline_ms - checkpoint.created_ms == {1: 300_000, 2: 150_000}[version]
    assert [outcome.entry.error for outcome in outcomes] == [None] * 5
    assert rules.under(version).names((1 << 4) - 1).count('"check"') == version - 1


def test_versions_change_under_a_saga_on_its_way() -> None:
    """Deployed, gone back, deployed again between any two of its records: nothing of it is parked."""
    for version in (1, 2):
        log, turns = Log(version), [Rules(SECOND.alongside(FIRST)), Rules(FIRST.alongside(SECOND))] * 3
        log.start(turns[0])
        for turn, event in zip(turns[1:], STORY[version], strict=False):
            assert log.say(turn, event).parked is None
        assert log.tracked.snapshot is not None
        assert log.tracked.snapshot.status is Status.COMPLETED


def test_commands_are_those_of_the_saga_s_version_and_name_it() -> None:
    """Steps by that version's order; version 1 needs no header."""
    for version, following in ((1, "place"), (2, "check")):
        rules, log = DEPLOYED["forward" if version == 1 else "back"], Log(version)
        log.start(rules)
        log.say(rules, Held())
        asked = log.say(rules, AbortRequested(operator="ann", reason="a test"))
        assert [type(order) for order in asked.orders] == [BarStep]
        bar = Envelope.from_headers(command(rules, log.tracked, asked.orders[0], asked.record, 1).headers)
        assert (bar.step, bar.version) == (following, 0 if version == 1 else 2)
        back = command(rules, log.tracked, CompensateStep(1, 1), asked.record, 1)
        assert Envelope.from_headers(back.headers).step == following


def test_a_version_that_is_not_registered_parks_its_sagas_alone_and_they_go_on_once_it_is() -> None:
    """Also what the release before parked, which knew one version at a time."""
    old, both, log = Rules(FIRST), DEPLOYED["forward"], Log(2)
    start = log.start(old)
    assert start.parked is not None
    assert start.parked.reason == "the saga runs under version 2 of 'small'; this saga log knows version 1"
    assert start.dead[0].kind == "version"
    assert log.say(old, Held()).parked is not None

    place = start.record
    letting = ParkReleased(
        operator="ann", reason="registered", topic=place.topic, partition=place.partition, offset=place.offset,
        action="retry",
    )  # fmt: skip
    assert log.say(old, letting).entry.error is not None
    assert len(log.say(both, letting).released) == 2
    for event in STORY[2][1:]:
        assert log.say(both, event).parked is None
    assert log.tracked.snapshot is not None
    assert log.tracked.snapshot.status is Status.COMPLETED


def test_a_version_that_cannot_be_read_is_no_version() -> None:
    """The start is parked; nothing stops."""
    log = Log()
    headers = [("ts_version", b"two"), *log.partition.start().headers]
    outcome = fold_record(DEPLOYED["forward"], log.tracked, log.partition.raw(b"{}", list(headers)))
    assert outcome.parked is not None
    assert "a header cannot be read" in outcome.parked.reason


def test_a_start_without_a_version_is_of_the_lowest_where_version_1_is_not_registered() -> None:
    """The release before wrote no version on starts, whatever the only definition was called."""
    rules, log = Rules(small_saga(version=4).alongside(small_saga(version=3))), Log()
    log.start(rules)
    assert log.tracked.snapshot is not None
    assert log.tracked.snapshot.version == 3


def test_the_deadline_is_the_version_s_and_counts_for_it() -> None:
    """Version 2 turns back in its own steps."""
    rules, log = DEPLOYED["back"], Log(2)
    log.start(rules)
    log.say(rules, Held())
    assert log.tracked.snapshot is not None
    elapsed = log.partition.record(DeadlineElapsed(deadline="2026-01-01T00:00:00Z"))
    late = elapsed._replace(recorded_ms=log.tracked.snapshot.deadline_ms)
    assert fold_record(rules, log.tracked, late).orders == (BarStep(1),)
