"""Parked records are values: whatever is added and removed, each of them stays what it was."""

from hypothesis import given
from hypothesis import strategies as st

from tradesaga.consumers.saga_log.tracked_saga import NONE, Parked, ParkedRecords
from tradesaga.infra.kafka.codec import Record

CHANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(-3, 12)), max_size=60)
"""Which of the values so far is changed, and how: the place that is removed from it, or a record that is added."""


def parked(offset: int) -> Parked:
    """Return a parked record of so many bytes."""
    return Parked(Record("small.events", 0, offset, 0, b"k", b"x" * (offset % 7), []), "because")


@given(CHANGES)
def test_each_value_is_a_list_of_its_own(changes: list[tuple[int, int]]) -> None:
    """Values that branch off from older ones share nothing that shows."""
    values: list[tuple[ParkedRecords, list[Parked]]] = [(NONE, [])]
    for offset, (chosen, position) in enumerate(changes):
        value, known = values[chosen % len(values)]
        if 0 <= position < len(known):
            values.append((value.removed(known[position].place), known[:position] + known[position + 1 :]))
        else:
            values.append((value.added(parked(offset)), [*known, parked(offset)]))
    for value, known in values:
        assert (list(value), len(value)) == (known, len(known))
        assert value.size == sum(each.record.size for each in known)
        assert [value.find(parked(offset).place) is not None for offset in range(len(changes))] == [
            parked(offset) in known for offset in range(len(changes))
        ]
        assert not known or value[0] == known[0]
