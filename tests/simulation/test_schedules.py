"""Seeded schedules of the shipped step path among faults: each holds, and each can be had again."""

import os
import subprocess
import sys

import pytest

from tradesaga.consumers.testing.simulation.campaign import SAMPLES, choose, describe, missed, run_many
from tradesaga.consumers.testing.simulation.fault_actions import CELLS
from tradesaga.consumers.testing.simulation.schedule import run
from tradesaga.consumers.testing.simulation.world import World
from tradesaga.schemas.envelope import VERSION
from tradesaga.schemas.identity import made_with

SCHEDULES = 2 * len(CELLS)
FIRST = 1_000_000
"""Where the seeds of this test begin, apart from those that `make simulate` runs."""
REPLAYED = (3, 17)
_HASHES = """
from tradesaga.consumers.testing.simulation.campaign import SAMPLES, choose
from tradesaga.consumers.testing.simulation.schedule import run
from tradesaga.consumers.testing.simulation.world import World
from tradesaga.schemas.envelope import VERSION
from tradesaga.schemas.identity import made_with
print(*(run(choose(SAMPLES, seed), seed).hash for seed in {seeds}))
"""


@pytest.mark.timeout(300)
def test_every_schedule_holds_and_every_fault_occurs_everywhere() -> None:
    """Each fault occurs at each failpoint, five faults and more a schedule, and no invariant is broken."""
    tally = run_many(SAMPLES, FIRST, SCHEDULES, 2)

    report = "\n".join(describe(tally))
    assert tally.failed_seeds == [], report
    assert missed(tally) == [], report
    assert tally.least_faults >= 5, report
    assert tally.figures["fenced writes"] > 0, report
    assert tally.figures["rebalances"] >= tally.schedules, report
    assert tally.figures["sagas"] >= 3 * tally.schedules, report


@pytest.mark.timeout(120)
def test_the_same_seed_gives_the_same_trace_in_every_process() -> None:
    """Two processes that hash strings differently, and this one, write the same trace."""
    here = [run(choose(SAMPLES, seed), seed).hash for seed in REPLAYED]
    program = _HASHES.format(seeds=REPLAYED)

    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        there = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert there.stdout.split() == here
    assert len(set(here)) == len(REPLAYED)


def test_a_schedule_goes_on_to_the_end_without_faults() -> None:
    """With nothing going wrong every saga ends, and nothing is fenced."""
    for seed in range(4):
        result = run(choose(SAMPLES, seed), seed, [])

        assert (list(result.violations), result.figures["faults"]) == ([], 0)
        assert result.figures["fenced writes"] == 0


def test_starts_are_those_of_the_doors() -> None:
    """Each carries the hash of its request under a key, and the version of its saga."""
    world = World(7, choose(SAMPLES, 7), [])
    world.start_saga()
    [start] = [record for logs in world.broker.logs.values() for log in logs for record in log]
    assert world.keys.matches(start.header("ts_request").decode(), world.sagas[0].start)
    assert made_with(start.header("ts_request").decode()) == world.keys.keys[0].id
    assert start.header(VERSION) == b"%d" % world.simulated.saga.version
