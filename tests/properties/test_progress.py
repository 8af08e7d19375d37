"""Stored progress reads back as what it was, whatever a saga has been through."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sagas import small_saga
from tradesaga.infra.saga_queries import ProgressError, decode_progress, encode_progress
from tradesaga.sagas.machine import Machine, State
from tradesaga.sagas.status import Status

MACHINE = Machine(small_saga())
STEPS = len(MACHINE.saga.steps)
SETS = st.integers(0, 2**STEPS - 1)
ROUNDS = st.tuples(*[st.integers(0, 2**31 - 1)] * STEPS)
FLAGS = st.booleans()
IDS = st.frozensets(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=4)

STATES = st.builds(
    State,
    failed=ROUNDS,
    undo_failed=ROUNDS,
    rounds=ROUNDS,
    undo_rounds=ROUNDS,
    undo_asked=ROUNDS,
    started=FLAGS,
    reported=FLAGS,
    done=SETS,
    refused=SETS,
    barred=SETS,
    unknown=SETS,
    compensated=SETS,
    skipped=SETS,
    bar_asked=SETS,
    taking_back=FLAGS,
    overdue=FLAGS,
    contradictions=IDS,
    decisions=IDS,
    resolved=st.none() | st.sampled_from([Status.ABORTED, Status.COMPLETED]),
    resolved_after=st.integers(0, 100),
    more_contradictions=st.integers(0, 100),
    unblocked=FLAGS,
    unowned=SETS,
    to_ask=SETS,
    untried_from=st.integers(0, 2**63 - 1),
)


@given(STATES)
def test_progress_reads_back(state: State) -> None:
    """Every field comes back, of its own type, from JSON that is compact."""
    stored = encode_progress(MACHINE, state)
    assert decode_progress(MACHINE, stored) == state
    assert orjson.dumps(orjson.loads(stored)) == stored


def test_a_saga_just_begun_takes_two_bytes() -> None:
    """Only what differs from the beginning is stored."""
    assert encode_progress(MACHINE, MACHINE.begin()) == b"{}"


@pytest.mark.parametrize(
    "stored", [b"", b"[]", b"{", b'{"failed":[1]}', b'{"resolved":"NEVER"}', b'{"later":1}', b'{"done":"x"}', b"null"]
)
def test_what_another_definition_wrote_is_refused(stored: bytes) -> None:
    """Damaged progress, or that of another number of steps, is named, never guessed at."""
    with pytest.raises(ProgressError):
        decode_progress(MACHINE, stored)
