"""The arithmetic of the comparison: what counts as lost or done twice, and what waiting costs a start that is late."""

from tests.benchmarks.comparison import Sample
from tests.benchmarks.load import ABORTED, COMPLETED, Counts, End, Load, Told, judge, percentile
from tests.benchmarks.plot import draw
from tests.benchmarks.report import figures_of, ratios_of


def told(count: int, seconds: float, rate: int = 10) -> Told:
    """Give sagas that were due at a rate and ended so long after the time they were due."""
    starts = {str(number): 1000 + number / rate for number in range(count)}
    return Told(starts, {saga: End(COMPLETED, due + seconds, repeated=False) for saga, due in starts.items()})


def sample(system: str, load: Load, seconds: float) -> Sample:
    """Give a load in which every saga took so long."""
    cost = {"services_cpu_ms": 1.0, "servers_cpu_ms": 1.0, "bytes_written": 100.0, "generator_cpu_ms": 1.0}
    memory = {"services": 10.0, "servers": 20.0}
    return Sample(system, load, judge(told(load.sagas, seconds)), cost, memory, 0.5)


def test_what_never_ended_is_lost_and_what_was_recorded_again_is_duplicated() -> None:
    """Each saga is counted by its own record, a missing one as lost, whatever the others did."""
    starts = dict.fromkeys("abcde", 0.0)
    ends = {
        "a": End(COMPLETED, 1.0, repeated=False),
        "b": End(ABORTED, 1.0, repeated=False),
        "c": End("FAILED", 1.0, repeated=False),
        "d": End(COMPLETED, 1.0, repeated=True),
        "foreign": End(COMPLETED, 1.0, repeated=True),
    }
    counts = judge(Told(starts, ends)).counts
    assert counts == Counts(completed=2, aborted=1, failed=1, lost=1, duplicated=1)


def test_a_load_is_as_wanted_only_when_every_saga_ended_once_as_its_kind_does() -> None:
    """A lost saga, an aborted one among happy ones and a repeated step each spoil it."""
    load = Load("happy", 0, 10)
    assert Counts(10, 0, 0, 0, 0).as_wanted(load)
    assert Counts(0, 10, 0, 0, 0).as_wanted(load._replace(kind="compensated"))
    for spoilt in (Counts(9, 0, 0, 1, 0), Counts(9, 1, 0, 0, 0), Counts(9, 0, 1, 0, 0), Counts(10, 0, 0, 0, 1)):
        assert not spoilt.as_wanted(load)


def test_a_stall_counts_for_every_saga_that_was_due_in_it() -> None:
    """Latency begins when a saga was due: one stall of a second shows in all that waited, not in the first alone."""
    starts = {str(number): number / 10 for number in range(10)}
    ends = {saga: End(COMPLETED, 1.0, repeated=False) for saga in starts}
    latencies = judge(Told(starts, ends)).latencies
    assert [round(value, 3) for value in latencies] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """The smallest value that at least the share of all does not exceed."""
    ordered = [float(number) for number in range(1, 101)]
    assert [percentile(ordered, share) for share in (0.5, 0.99, 0.999, 1.0)] == [50.0, 99.0, 100.0, 100.0]
    assert percentile([7.0], 0.5) == 7.0


def test_figures_are_medians_over_rounds_and_say_where_a_system_was_saturated() -> None:
    """The rounds of one system and load become one object; without an outcome it has no rate."""
    flat, paced = Load("happy", 0, 20), Load("happy", 300, 20)
    samples = [sample("tradesaga", flat, seconds) for seconds in (0.1, 0.3, 0.2)]
    samples += [sample("tradesaga", paced, 0.2), Sample("other", paced, None, {}, {}, 0.5)]
    first, second, third = figures_of(samples)
    assert (first["runs"], second["runs"], third["saturated"]) == (3, 1, 1)
    assert first["per_second"]["median"] == judge(told(20, 0.2)).per_second
    assert "latency_ms" not in first
    assert round(second["latency_ms"]["p50"]["median"]) == 200
    assert "per_second" not in third
    assert first["counts"] == {"completed": 60, "aborted": 0, "failed": 0, "lost": 0, "duplicated": 0}


def test_the_last_percentile_needs_ten_thousand_sagas() -> None:
    """From fewer, one or two sagas would make it."""
    few, many = Load("happy", 300, 4_999), Load("happy", 300, 5_000)
    for load, there in ((few, False), (many, True)):
        (figure,) = figures_of([sample("tradesaga", load, 0.1) for _ in range(2)])
        assert ("p99.9" in figure["latency_ms"]) is there


def test_ratios_compare_happy_sagas_flat_out() -> None:
    """Other loads do not enter them; neither does a system without a rate."""
    flat, back = Load("happy", 0, 20), Load("compensated", 0, 20)
    samples = [sample("tradesaga", flat, 0.1), sample("other", flat, 2.1), sample("other", back, 0.1)]
    assert {name: round(value, 2) for name, value in ratios_of(figures_of(samples)).items()} == {"other": 2.0}


def test_the_charts_name_every_system_and_escape_what_they_are_given() -> None:
    """Each system has a bar for its rate and one for its latency; a name cannot break the file."""
    samples = [
        sample(name, load, 0.1) for name in ("tradesaga", "a<b") for load in (Load("happy", 0, 9), Load("happy", 20, 9))
    ]
    svg = draw(figures_of(samples))
    assert svg.count("<rect") == 4
    assert "a&lt;b, 20/s" in svg
    assert "a<b" not in svg
