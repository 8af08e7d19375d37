"""The arithmetic of real trades: what spoils a load, which rate is sustained, medians by process."""

from tests.benchmarks.load import COMPLETED, End, Told, judge
from tests.benchmarks.trades.counters import Usage
from tests.benchmarks.trades.figures import figures_of
from tests.benchmarks.trades.measuring import TradeSample
from tests.benchmarks.trades.plan import TradeLoad, TradePlan, at_rate
from tests.benchmarks.trades.records import Fate
from tests.benchmarks.trades.sustained import holds, search


def sample(load: TradeLoad, seconds: float = 0.1, missing: int = 0, cpu: float = 0.010) -> TradeSample:
    """Make a load in which every trade took so long, and some never ended."""
    starts = {str(number): 1000.0 + number for number in range(load.trades)}
    ended = list(starts)[: load.trades - missing]
    told = Told(starts, {each: End(COMPLETED, starts[each] + seconds, repeated=False) for each in ended})
    fate = Fate([0.01] * load.trades, {"202": load.trades}, 0, load.trades, judge(told))
    usage = Usage({"gateway": cpu, "Kafka": 2 * cpu}, {"wal_bytes": 500.0, "commits": 11.0}, 300.0)
    return TradeSample("trades", load, fate, usage, 0.001, 1.0)


def test_a_plan_has_open_rates_for_its_time_and_then_bursts() -> None:
    """A rate of 0 is a burst."""
    plan = TradePlan(1, 15.0, (5, 60), (1_000,), 20.0, None)
    assert plan.loads == [TradeLoad(5, 75), TradeLoad(60, 900), TradeLoad(0, 1_000)]
    assert [load.name for load in plan.loads] == ["5/s", "60/s", "1,000 at once"]


def test_figures_are_medians_by_process_over_the_rounds() -> None:
    """CPU in milliseconds; counts and answers are summed."""
    load = TradeLoad(20, 4)
    (figure,) = figures_of(sample(load, cpu=cpu) for cpu in (0.010, 0.030, 0.020))
    assert figure["runs"] == 3
    assert figure["a_trade"]["cpu_ms"] == {"gateway": 20.0, "Kafka": 40.0}
    assert figure["a_trade"]["bytes_written"] == 800.0
    assert figure["a_trade"]["generator_cpu_ms"] == 1.0
    assert figure["answers"] == {"202": 12}
    assert figure["counts"] == {"completed": 12, "aborted": 0, "failed": 0, "lost": 0, "duplicated": 0}
    assert figure["as_wanted"]
    assert round(figure["latency_ms"]["p50"]["median"]) == 100


def test_a_lost_trade_and_a_refused_one_that_is_stored_spoil_a_load() -> None:
    """Refusals alone do not."""
    good = sample(TradeLoad(0, 10)).fate
    assert good._replace(answers={"202": 10, "429": 5}).as_wanted
    assert not sample(TradeLoad(0, 10), missing=1).fate.as_wanted
    assert not good._replace(refused_yet_stored=1).as_wanted
    assert good._replace(started=0, outcome=None).as_wanted


def test_a_rate_holds_if_all_trades_complete_and_p99_is_under_a_second() -> None:
    """A refused trade means that the rate was not sustained."""
    load = at_rate(20, 10)
    assert holds(sample(load, 0.9))
    assert not holds(sample(load, 1.1))
    assert not holds(sample(load, missing=1))
    fewer = sample(load._replace(trades=load.trades - 1))
    assert not holds(fewer._replace(load=load))


def test_the_search_finds_the_highest_rate_that_holds() -> None:
    """It doubles or halves from its first rate, then bisects until the rates are within ten per cent."""
    tried: list[int] = []

    def up_to(most: int) -> tuple[int, bool]:
        tried.clear()

        def try_rate(rate: int) -> bool:
            tried.append(rate)
            return rate <= most

        return search(try_rate, lambda: True, first=20)

    assert up_to(47) == (47, True)
    assert tried == [20, 40, 80, 60, 50, 45, 47]
    assert up_to(3) == (3, True)
    assert tried[:3] == [20, 10, 5]
    assert up_to(0) == (0, True)
    assert tried[-1] == 1


def test_the_search_ends_with_its_time() -> None:
    """It returns what held until then, and that it has not finished."""
    left = [True, True, False]
    assert search(lambda rate: True, lambda: left.pop(0)) == (40, False)
