"""A schedule that fails is told with its seed, on as few faults as it takes, and can be had again by anybody."""

import json
from typing import Any

import pytest

from tests.mutants.catalogue import publish_before_commit
from tests.mutants.hunt import MOST
from tradesaga.consumers.testing.simulation.campaign import (
    SAMPLES,
    Tally,
    choose,
    describe_failure,
    find_simulated_saga,
    simulate,
)
from tradesaga.consumers.testing.simulation.schedule import run, shorten
from tradesaga.infra.cli.entry import execute
from tradesaga.infra.errors import CommandError, ExitCode


def test_a_failure_is_shortened_and_told_with_its_seed() -> None:
    """Of a failing schedule's faults only those are left that it takes, and its trace is told."""
    with publish_before_commit():
        failing = next(r for seed in range(MOST) if (r := run(choose(SAMPLES, seed), seed)).violations)
        short = shorten(choose(SAMPLES, failing.seed), failing)
        again = run(choose(SAMPLES, failing.seed), failing.seed, short.faults)
    told = "\n".join(describe_failure(short))

    assert short.violations
    assert again.hash == short.hash or again.violations == short.violations
    assert len(short.faults) < len(failing.faults)
    assert set(short.faults) <= set(failing.faults)
    assert f"tradesaga simulate --seed {failing.seed}" in told
    assert short.trace[-1] in told


def test_the_command_replays_one_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """`--seed` runs that schedule alone, the same each time; `--trace` tells all of it."""
    told: list[str] = []
    for _ in range(2):
        assert execute(["simulate", "--seed", "12", "--trace"]) == ExitCode.FINE
        told.append(capsys.readouterr().out)

    assert told[0] == told[1]
    assert "seed 12 passes" in told[0]
    assert "append sim-order.events" in told[0]


def test_the_command_ends_with_1_where_a_schedule_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """A campaign that finds something says so in its exit code and in its JSON."""
    with publish_before_commit():
        code = simulate(schedules=30, processes=1, as_json=True)
    report: dict[str, Any] = json.loads(capsys.readouterr().out)

    assert code == ExitCode.CHECK_FAILED
    assert report["failed"]
    assert report["failures"][0]["seed"] == report["failed"][0]
    assert report["failures"][0]["trace"]


def test_a_subject_that_is_not_there_is_named() -> None:
    """What cannot be simulated ends with a sentence, and exit code 3."""
    for path in (
        "nowhere:x",
        "tradesaga.consumers.testing.simulation.samples:nothing",
        "tradesaga.consumers.testing.simulation.samples:ORDER",
        "plain",
    ):
        with pytest.raises(CommandError) as raised:
            find_simulated_saga(path)
        assert raised.value.exit_code == ExitCode.NOT_FOUND
        assert "SimulatedSaga" in str(raised.value)


def test_a_tally_counts_what_is_put_in() -> None:
    """Figures, hits and failures of all schedules are in the sum."""
    tally = Tally()
    results = [run(choose(SAMPLES, seed), seed) for seed in (2, 3)]
    tally.add(results)

    assert tally.schedules == 2
    assert tally.figures["sagas"] == sum(result.figures["sagas"] for result in results)
    assert tally.least_faults == min(result.hits.total() for result in results)
