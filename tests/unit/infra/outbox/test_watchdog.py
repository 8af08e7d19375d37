"""The watchdog's judgement: who is stuck, who merely has nothing to read, and when a new consumer is no help."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from tradesaga.infra.kafka.connections import KafkaUnavailableError, Partition
from tradesaga.infra.outbox.watchdog import Action, Observation, Patience, Watchdog, watch

PATIENCE = Patience(silence=60, rebuilds=2, hang=300)
CALM = Observation(polls=1, offsets={("a", 0): 5}, paused=False, assigned=True, turned=0)


@pytest.fixture
def watchdog() -> Watchdog:
    """Give a watchdog that has looked once, at second 0."""
    watchdog = Watchdog(PATIENCE)
    watchdog.begin(0)
    assert not watchdog.is_suspicious(0, CALM)
    return watchdog


def test_a_short_silence_is_none(watchdog: Watchdog) -> None:
    """Within its patience the broker is not even asked."""
    assert not watchdog.is_suspicious(60, replace(CALM, polls=2))
    assert watchdog.is_suspicious(61, replace(CALM, polls=3))


def test_silence_is_no_fault_where_there_is_nothing_to_read(watchdog: Watchdog) -> None:
    """Polls come back empty and the broker has nothing either: all is well, and the next question waits as long."""
    assert watchdog.is_suspicious(61, replace(CALM, polls=9))
    assert watchdog.decide(61, waits=False) is Action.FINE
    assert not watchdog.is_suspicious(100, replace(CALM, polls=10))


def test_a_record_that_only_others_can_read_shows_a_stuck_consumer(watchdog: Watchdog) -> None:
    """It is rebuilt as often as patience allows; then the process is to end."""
    verdicts: list[Action] = []
    for now in (61, 122, 183):
        assert watchdog.is_suspicious(now, replace(CALM, polls=now))
        verdicts.append(watchdog.decide(now, waits=True))
        watchdog.begin(now)
        assert not watchdog.is_suspicious(now, replace(CALM, polls=now))
    assert verdicts == [Action.REBUILD, Action.REBUILD, Action.END]


def test_a_rebuilt_consumer_that_reads_is_forgiven(watchdog: Watchdog) -> None:
    """Once records come again, the count of chances begins anew."""
    assert watchdog.is_suspicious(61, replace(CALM, polls=2))
    assert watchdog.decide(61, waits=True) is Action.REBUILD
    watchdog.begin(61)
    assert not watchdog.is_suspicious(62, replace(CALM, polls=3))
    assert not watchdog.is_suspicious(122, replace(CALM, polls=4, offsets={("a", 0): 6}))
    assert not watchdog.is_suspicious(182, replace(CALM, polls=5, offsets={("a", 0): 7}))
    assert watchdog.rebuilt == 0


def test_one_partition_that_is_silent_among_others_is_noticed(watchdog: Watchdog) -> None:
    """Records from one partition say nothing of another: only the silent one is asked after."""
    for now in (30, 61):
        doubted = watchdog.is_suspicious(now, replace(CALM, polls=now, offsets={("a", 0): 5, ("a", 1): now}))
    assert doubted
    assert watchdog.silent == {("a", 0): 5}
    assert watchdog.decide(61, waits=True) is Action.REBUILD


@pytest.mark.parametrize(
    "sight", [replace(CALM, polls=1), replace(CALM, polls=50, assigned=False), replace(CALM, offsets={})]
)
def test_a_poll_or_a_share_that_never_comes_is_a_fault_too(watchdog: Watchdog, sight: Observation) -> None:
    """A poll that does not return, or a group that gives no share, is stuck even where there is nothing to read."""
    assert watchdog.is_suspicious(61, sight)
    assert watchdog.decide(61, waits=False) is Action.REBUILD


@pytest.mark.parametrize("sight", [replace(CALM, paused=True), replace(CALM, polls=50, offsets={})])
def test_whoever_wants_nothing_is_not_stuck(watchdog: Watchdog, sight: Observation) -> None:
    """Full hands, or lanes that are not claimed yet, are no silence of the consumer's."""
    assert not watchdog.is_suspicious(61, sight)


def test_a_worker_that_never_comes_round_is_given_up(watchdog: Watchdog) -> None:
    """Whatever holds it up is nothing that a new consumer could mend; a process that slept is not blamed for it."""
    assert not watchdog.is_hung(300, CALM)
    assert watchdog.is_hung(301, CALM)
    watchdog.begin(290)
    assert not watchdog.is_hung(301, CALM)


async def test_a_broker_that_is_away_excuses_the_silence() -> None:
    """As long as nobody can ask, nothing is rebuilt; once it answers, the stuck one is found."""
    asked: list[Mapping[Partition, int]] = []
    polls: Iterator[int] = iter(range(1000))

    async def probe(offsets: Mapping[Partition, int]) -> bool:
        asked.append(offsets)
        if len(asked) < 3:
            raise KafkaUnavailableError("away")
        return True

    watchdog = Watchdog(Patience(silence=0.06, rebuilds=1, hang=60))
    sight = replace(CALM, turned=float("inf"))
    assert await watch(watchdog, lambda: replace(sight, polls=next(polls)), probe) is Action.REBUILD
    assert len(asked) == 3
    assert await watch(watchdog, lambda: replace(sight, polls=next(polls)), probe) is Action.END
