"""The model by itself: what must hold whatever was measured, and what follows from a change of a cost."""

import math
from dataclasses import replace

import pytest

from tests.benchmarks.scale_out import capacity
from tests.benchmarks.scale_out.checks import ended
from tests.benchmarks.scale_out.costs import Costs, Prices, Site, read_measured
from tests.benchmarks.scale_out.fitting import split
from tests.benchmarks.scale_out.plan import cell_at, most, plan, stages
from tests.benchmarks.scale_out.sheet import Sheet, renew

SITE = Site()


@pytest.fixture(scope="module")
def costs() -> Costs:
    """Give the measured costs."""
    return read_measured().costs


@pytest.mark.parametrize("messages", [1.0, 50.0, 1000.0, 3000.0])
def test_a_batch_is_what_came_during_the_one_before(costs: Costs, messages: float) -> None:
    """The size found is one that keeps itself up, and no worker is busy for longer than there is time."""
    found = capacity.beat(costs.log, SITE, messages)
    expected = messages * found.seconds
    assert found.batch == pytest.approx(expected + math.exp(-expected), rel=1e-3)
    assert 0 < found.busy <= 1


def test_batches_grow_with_the_rate_up_to_their_bound_and_make_messages_cheaper(costs: Costs) -> None:
    """From single messages to full batches, each message costs less."""
    sizes = [capacity.beat(costs.log, SITE, rate).batch for rate in (1.0, 100.0, 1000.0, 1e9)]
    assert sizes == sorted(sizes)
    assert sizes[0] == pytest.approx(1, rel=0.01)
    assert sizes[-1] == SITE.batch
    each = [capacity.own_us(costs.log, size) for size in sizes]
    assert each == sorted(each, reverse=True)


def test_partitions_are_dealt_out_whole() -> None:
    """Five processes of twelve partitions: the fullest has three, and a sixth process takes nothing off but one."""
    assert [capacity.share_of(count, SITE) * 12 for count in (1, 2, 4, 5, 6, 7, 12)] == [12, 6, 3, 3, 2, 2, 1]


def test_what_breaks_first_comes_first_and_more_processes_only_help_processes(costs: Costs) -> None:
    """Twelve processes bear twelve times as much as one; sealer, PostgreSQL and Kafka bear what they did."""
    one, twelve = (capacity.limits(costs, SITE, count) for count in (1, 12))
    for limits in (one, twelve):
        assert [limit.rate for limit in limits] == sorted(limit.rate for limit in limits)
    rates = [{limit.name.split(":")[0]: limit.rate for limit in limits} for limits in (one, twelve)]
    for name, rate in rates[0].items():
        assert rates[1][name] == pytest.approx(rate * (12 if name in {"steps", "saga log"} else 1)), name


def test_a_cost_halved_doubles_its_limit(costs: Costs) -> None:
    """The sealer's limit is its CPU time and nothing else."""
    cheaper = costs.model_copy(update={"sealer_us": costs.sealer_us / 2})
    before, after = (
        next(limit.rate for limit in capacity.limits(each, SITE, 12) if limit.name.startswith("sealer"))
        for each in (costs, cheaper)
    )
    assert after == pytest.approx(2 * before)


def test_a_database_for_each_service_bears_no_less(costs: Costs) -> None:
    """Every limit of PostgreSQL is higher once services do not share one."""
    shared, apart = (
        [limit.rate for limit in capacity.limits(costs, SITE, 12, apart=apart) if "PostgreSQL" in limit.name]
        for apart in (False, True)
    )
    assert min(apart) > min(shared)


def test_a_plan_keeps_within_what_it_plans_for(costs: Costs) -> None:
    """No cell is fuller than a cell may be, and together they bear the rate, the fullest one's excess included."""
    for rate in (100.0, 1_000.0, 100_000.0):
        made = plan(costs, SITE, Prices(), rate)
        assert made.cell.rate <= most(costs, SITE) + 1
        assert made.cells * made.cell.rate == pytest.approx(rate * (SITE.uneven if made.cells > 1 else 1))
        assert all(crew.processes <= SITE.partitions for crew in made.cell.crews)
        assert max(made.cell.databases.values()) <= SITE.utilisation * SITE.postgres_cores
        assert made.in_flight == pytest.approx(rate * made.latency)


def test_bytes_and_what_is_paid_for_them_grow_with_the_rate(costs: Costs) -> None:
    """A hundred times the sagas are a hundred times the bytes."""
    small, large = (plan(costs, SITE, Prices(), rate) for rate in (1_000.0, 100_000.0))
    assert large.network_mb == pytest.approx(100 * small.network_mb)
    assert large.disk_gb_day == pytest.approx(100 * small.disk_gb_day)
    for name in ("disk, 30 days", "archive, after 5 years"):
        assert large.bill[name].high == pytest.approx(100 * small.bill[name].high)
        assert small.bill[name].low < small.bill[name].high


def test_a_site_too_weak_for_one_saga_is_refused(costs: Costs) -> None:
    """Rather than an endless number of cells there is an error."""
    slow = replace(SITE, round_trip_ms=1e9)
    assert cell_at(costs, slow, 1.0) is None
    with pytest.raises(ValueError, match="no cell bears"):
        plan(costs, slow, Prices(), 10.0)


def test_each_step_on_the_way_up_bears_no_less_than_the_one_before(costs: Costs) -> None:
    """What breaks first breaks later."""
    firsts = [limits[0].rate for _, limits in stages(costs, SITE)[:3]]
    assert firsts == sorted(firsts)


def test_a_process_offered_too_much_ends_fewer_sagas_the_more_it_is_offered() -> None:
    """At its limit all end; beyond it, it works on sagas that it does not finish."""
    assert ended(1000, 1000, 5) == pytest.approx(1000)
    ends = [ended(times * 1000, 1000, 5) for times in (1.0, 1.2, 1.5, 2.0)]
    assert ends == sorted(ends, reverse=True)
    assert ends[-1] > 0


def test_the_cost_of_a_batch_is_told_from_that_of_a_message() -> None:
    """Points made of known costs give these back; points that cannot tell put all on the messages."""
    points = [(batches, messages, 0.004 * batches + 0.0001 * messages) for batches, messages in ((9, 9000), (400, 900))]
    assert split(points) == pytest.approx((0.004, 0.0001))
    assert split([(10, 100, 2.0), (20, 200, 4.0)]) == pytest.approx((0, 0.02))


def test_tables_are_put_between_their_marks_and_nowhere_else() -> None:
    """What stands around them stays; a table that the document does not show, or one that is not made, is an error."""
    text = "a\n<!-- one: made by make scale-out -->\nold\n<!-- end -->\nb\n"
    sheet = Sheet("t", ("x", "y"), [("1", "2")])
    expected = "a\n<!-- one: made by make scale-out -->\n| x | y |\n| --- | ---: |\n| 1 | 2 |\n<!-- end -->\nb\n"
    assert renew(text, {"one": sheet}) == expected
    assert renew(expected, {"one": sheet}) == expected
    with pytest.raises(ValueError, match="two"):
        renew(text, {"one": sheet, "two": sheet})
