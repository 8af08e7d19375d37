"""The simulation beside the model, on the costs that are kept; and the document, which shows what both say."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.scale_out import capacity
from tests.benchmarks.scale_out.capacity import Beat
from tests.benchmarks.scale_out.checks import Check, check, check_cells
from tests.benchmarks.scale_out.costs import Costs, Prices, Site, read_measured
from tests.benchmarks.scale_out.picture import draw
from tests.benchmarks.scale_out.sheet import renew
from tests.benchmarks.scale_out.simulation import Trial, simulate
from tests.benchmarks.scale_out.tables import sheets

ROOT = Path(__file__).parents[3]
SITE = Site()


@pytest.fixture(scope="module")
def costs() -> Costs:
    """Give the measured costs."""
    return read_measured().costs


@pytest.fixture(scope="module")
def found(costs: Costs) -> list[Check]:
    """Run all trials once."""
    return check(costs, SITE)


def test_the_simulation_agrees_with_the_model(found: list[Check]) -> None:
    """Rates, cores, batches, latencies, a hot partition, a lost cell, uneven cells: each within its bound."""
    assert [f"{each.trial}: {each.figure}: {each.ratio:.2f}" for each in found if not each.holds] == []
    assert len({each.trial for each in found}) == 8


def test_the_document_shows_what_the_model_says(costs: Costs, found: list[Check]) -> None:
    """Tables and picture are those of the kept costs: `make scale-out ARGS="--model --keep"` writes them again."""
    text = (ROOT / "docs/scaling.md").read_text()
    assert renew(text, sheets(read_measured(), SITE, Prices(), found)) == text
    assert (ROOT / "docs/images/scaling.svg").read_text() == draw(costs, SITE)


def test_a_simulation_repeats_itself(costs: Costs) -> None:
    """The same seed gives the same latencies, another one others."""
    trial = Trial(300.0, (1, 1, 1, 1), 1, 2.0)
    assert simulate(costs, SITE, trial).latencies == simulate(costs, SITE, trial).latencies
    assert simulate(costs, SITE, trial).latencies != simulate(costs, SITE, replace(trial, seed=2)).latencies


def test_the_slowest_in_a_hundred_are_not_far_behind(costs: Costs) -> None:
    """Below its limits a cell's p99 is under twice its median: what waits, waits for a batch or two."""
    result = simulate(costs, SITE, Trial(1000.0, (1, 1, 1, 1), 1, 8.0))
    assert result.quantile(0.5) < result.quantile(0.99) < 2 * result.quantile(0.5)


def test_a_wrong_model_is_noticed(costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a formula that forgets half of a batch under way, the latencies no longer agree."""

    def forget(beat: Beat) -> float:
        return beat.seconds

    monkeypatch.setattr(capacity, "hop", forget)
    wrong = {each.figure for each in check_cells(costs, SITE) if not each.holds}
    assert "latency, mean ms" in wrong


def test_sagas_under_way_at_the_end_are_those_started_and_not_ended(costs: Costs) -> None:
    """Nothing gets lost on the way: a cell that bears its rate is left with what Little's law says."""
    result = simulate(costs, SITE, Trial(500.0, (1, 1, 1, 1), 1, 6.0))
    assert result.left == pytest.approx(result.in_flight, rel=0.35)
    assert result.per_second == pytest.approx(500, rel=0.05)
