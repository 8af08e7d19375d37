"""A snapshot of the demo says whether its sources were read at one moment."""

import pytest

from tradesaga.producers.demo.snapshot import RunData, Snapshot, TopicRecord


def said(offset: int) -> TopicRecord:
    """Give a record of the facts' topic."""
    return TopicRecord("trade.events", 0, offset, {}, "{}")


@pytest.mark.parametrize(
    ("verified", "rows", "records", "one"),
    [(3, 3, 3, True), (2, 3, 3, False), (3, 3, 4, False), (3, 4, 4, False)],
)
def test_what_was_said_between_two_readings_is_noticed(verified: int, rows: int, records: int, one: bool) -> None:
    """By the sealer's verification, by the tables, or by the topic, whichever has more."""
    tables = {"saga_event": [{"offset": offset} for offset in range(rows)]}
    shot = Snapshot({}, tables, [said(offset) for offset in range(records)], RunData(audit={"rows": verified}))
    assert shot.is_of_one_moment is one
