"""What became of the trades of a load, by the records of the database."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from tests.benchmarks.load import End, Outcome, Told, judge
from tests.benchmarks.stage import Stage
from tests.benchmarks.trades.generator import Request
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.messages.trade import VenueReport


class Records(NamedTuple):
    """How a system's own records are read: its database, and three queries over the ids of trades."""

    database: str
    stored: str
    """The `id` of each trade that was stored."""
    ends: str
    """`id`, `state`, `at` and `repeated` of each trade that has ended, as of `End`."""
    ended: str
    """How many of the trades have `ended`."""


_STORED = "SELECT saga_id::text AS id FROM start_request WHERE saga_id = ANY($1::uuid[])"
_ENDS = f"""
SELECT s.saga_id::text AS id, s.state, extract(epoch FROM pg_xact_commit_timestamp(s.xmin))::float8 AS at,
    (SELECT count(*) > count(DISTINCT event_type) FROM saga_event e
        WHERE e.saga_id = s.saga_id AND event_type <> '{wire_type(trade.name, VenueReport)}') AS repeated
FROM saga s WHERE s.saga_id = ANY($1::uuid[]) AND s.state IN ('COMPLETED', 'ABORTED', 'FAILED')
"""
"""A fact that is recorded twice is a repetition, except a venue's report: it makes one of each state of an order."""
_ENDED = """
SELECT count(*) AS ended FROM saga
WHERE state IN ('COMPLETED', 'ABORTED', 'FAILED') AND saga_id = ANY($1::uuid[])
"""


def records_of_product(database: str) -> Records:
    """Return how the product's records are read."""
    return Records(database, _STORED, _ENDS, _ENDED)


REFUSED = 429
_FIRST_ERROR = 300


class Fate(NamedTuple):
    """How the trades of a load were answered and how they ended; latencies in seconds, in order, from when due."""

    accepted: Sequence[float]
    answers: dict[str, int]
    refused_yet_stored: int
    started: int
    outcome: Outcome | None
    """None if no trade was started."""

    @property
    def as_wanted(self) -> bool:
        """Whether each trade that was started completed once, and none was started that was refused."""
        counts = self.outcome.counts if self.outcome else None
        spoilt = counts is not None and any((counts.aborted, counts.failed, counts.lost, counts.duplicated))
        return not spoilt and not self.refused_yet_stored


def is_accepted(request: Request) -> bool:
    """Return whether the gateway accepted the request."""
    return 0 < request.status < _FIRST_ERROR


def read_fate(stage: Stage, records: Records, requests: Sequence[Request]) -> Fate:
    """Read what became of the requests: started is what was accepted, or is stored although the answer was lost."""
    sagas = [request.saga for request in requests]
    stored = {row["id"] for row in stage.ask(records.stored, sagas, url=records.database)}
    started = {each.saga: each.due for each in requests if is_accepted(each) or each.saga in stored}
    rows = stage.ask(records.ends, list(started), url=records.database)
    ends = {row["id"]: End(row["state"], row["at"], row["repeated"]) for row in rows}
    return Fate(
        sorted(each.answered - each.due for each in requests if is_accepted(each)),
        dict(Counter(str(each.status) if each.status else "no answer" for each in requests)),
        sum(each.status == REFUSED and each.saga in stored for each in requests),
        len(started),
        judge(Told(started, ends)) if started else None,
    )
