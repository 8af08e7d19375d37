"""The venue's metrics, read from it whenever they are asked for."""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tradesaga.infra.paper_exchange.venue import Venue


class VenueMeters(Collector):
    """What one venue has done since its start, and how it stands."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        executions = CounterMetricFamily(
            "tradesaga_venue_executions", "Events of orders, by kind", labels=["execution"]
        )  # fmt: skip
        for execution, count in self._venue.streams.published.items():
            executions.add_metric([execution], count)
        yield executions
        faults = CounterMetricFamily("tradesaga_venue_faults", "Faults that struck, by kind", labels=["kind"])
        struck: dict[str, int] = {}
        for rule in self._venue.faults.show():
            struck[rule["kind"]] = struck.get(rule["kind"], 0) + int(rule["struck"])
        for kind, count in struck.items():
            faults.add_metric([kind], count)
        yield faults
        yield CounterMetricFamily("tradesaga_venue_commits", "Ledger transactions", self._venue.journal.commits)
        yield CounterMetricFamily("tradesaga_venue_changes", "Changes in them", self._venue.journal.changes)
        yield GaugeMetricFamily("tradesaga_venue_listeners", "Open user data streams", self._venue.streams.listening)
        yield GaugeMetricFamily("tradesaga_venue_resting_orders", "Orders on the books", self._venue.exchange.waiting)
