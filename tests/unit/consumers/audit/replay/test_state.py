"""The notebook of a replay: what was saved comes back as it was, and another replay's file is refused."""

import gc
import sqlite3
import tracemalloc
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import orjson
import pytest

from tests.sagas import Filled, Held, Partition, Placed, Settled, small_saga
from tradesaga.consumers.audit.log.fold import Fold
from tradesaga.consumers.audit.replay.differences import Difference
from tradesaga.consumers.audit.replay.saga_cache import SagaCache
from tradesaga.consumers.audit.replay.state import REMEMBERED, Identity, ReplayState, Watermark
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.schemas.messages.lifecycle import AbortRequested

RULES = Rules(small_saga(), 3)
IDENTITY = Identity.of(RULES, "cluster-1", "comparison")


def replay_state(path: Path | None, identity: Identity = IDENTITY) -> ReplayState:
    """Open one."""
    return ReplayState(path, identity, RULES)


def folded(sagas: SagaCache, *, poison: bool = False) -> Tracked:
    """Fold a saga's story, with a record in it that is parked if asked to; give what it came to."""
    told, fold = Partition(RULES.saga, partitions=3), Fold(RULES, sagas)
    fold.take(told.start())
    fold.take(told.record(Held()))
    if poison:
        fold.take(told.raw(b"\xff", [("ce_correlationid", str(told.saga_id).encode()), ("ce_type", b"what")]))
        fold.take(told.record(AbortRequested(operator="desk", reason="a test")))
    for event in (Placed(), Filled(), Settled()):
        fold.take(told.record(event))
    found = sagas.get(told.saga_id)
    assert found is not None
    return found


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    """Sagas with parked records, marks, counts, differences and chains of fragments."""
    path, fragment = tmp_path / "resume.db", uuid4()
    with replay_state(path) as first:
        sagas = [folded(first.sagas, poison=number % 2 == 1) for number in range(6)]
        early = Tracked(uuid4(), 0)
        first.watermarks["small.events", 1] = Watermark(7, b"hash")
        first.add("records", 30)
        first.partial_sagas.heads[fragment] = (3, b"head")
        assert first.differ([Difference("here", "field", "a", "b")])
        first.save()
        first.add("records", 99)
        first.watermarks["small.events", 1] = Watermark(100, b"lost")
    with replay_state(path) as second:
        assert [second.sagas.get(each.saga_id) for each in sagas] == sagas
        assert second.sagas.get(early.saga_id) is None
        assert second.watermarks == {("small.events", 1): Watermark(7, b"hash")}
        assert second.counts == {"records": 30, "differing": 1}
        assert second.partial_sagas.heads == {fragment: (3, b"head")}
        assert second.differ([Difference("here", "field", "a", "b")]) == []
        assert second.differences(10) == [Difference("here", "field", "a", "b")]
        assert {each.saga_id for each in second.sagas} == {each.saga_id for each in sagas}
    assert any(len(each.parked) > 1 for each in sagas)


@pytest.mark.parametrize(
    "other",
    [
        IDENTITY._replace(cluster="cluster-2"),
        IDENTITY._replace(saga="other"),
        IDENTITY._replace(definitions={**IDENTITY.definitions, "2": "hold place fill"}),
        IDENTITY._replace(definitions={"1": "hold place fill"}),
        IDENTITY._replace(partitions=12),
        IDENTITY._replace(purpose="at 5 event"),
    ],
)
def test_another_replay_s_file_is_refused(tmp_path: Path, other: Identity) -> None:
    """Of another cluster, saga, definition, number of partitions or purpose, or of a version not registered here."""
    path = tmp_path / "resume.db"
    replay_state(path, other).__exit__()
    changed = next(name for name in Identity._fields if getattr(other, name) != getattr(IDENTITY, name))

    with pytest.raises(CommandError, match=changed) as raised:
        replay_state(path)
    assert raised.value.exit_code is ExitCode.REFUSED


def test_a_replay_goes_on_when_a_version_is_added(tmp_path: Path) -> None:
    """What was folded under version 1 stays right; from then on the file is one of both versions."""
    path = tmp_path / "resume.db"
    two = Rules(replace(RULES.saga, version=2).alongside(RULES.saga), 3)
    both = Identity.of(two, "cluster-1", "comparison")
    with replay_state(path) as first:
        known = folded(first.sagas)
        first.save()
    with ReplayState(path, both, two) as second:
        assert second.sagas.get(known.saga_id) == known
    with pytest.raises(CommandError, match="definitions"):
        replay_state(path)


def test_a_replay_of_the_release_before_goes_on(tmp_path: Path) -> None:
    """Its file names one version and that one's steps."""
    path = tmp_path / "resume.db"
    replay_state(path).__exit__()
    with sqlite3.connect(path) as sql:
        told = orjson.loads(sql.execute("SELECT told FROM identity").fetchone()[0])
        ((version, steps),) = told.pop("definitions").items()
        sql.execute("UPDATE identity SET told = ?", (orjson.dumps({**told, "version": int(version), "steps": steps}),))
    sql.close()
    replay_state(path).__exit__()


def test_what_is_no_notebook_is_refused(tmp_path: Path) -> None:
    """Text, another program's database, a folder, and one that another process has open."""
    text, foreign, taken = tmp_path / "text", tmp_path / "foreign.db", tmp_path / "taken.db"
    text.write_text("not a database" * 100)
    with sqlite3.connect(foreign) as sql:
        sql.execute("CREATE TABLE mine (value TEXT)")
    sql.close()
    with replay_state(taken) as open_:
        open_.save()
        for path in (text, foreign, tmp_path, taken):
            with pytest.raises(CommandError) as raised:
                replay_state(path)
            assert raised.value.exit_code is ExitCode.REFUSED
            assert raised.value.where == str(path)
    assert text.read_text().startswith("not a database")


def test_differences_are_remembered_up_to_a_number_and_counted_beyond() -> None:
    """So that a database of which nothing is right does not fill the disk."""
    with replay_state(None) as each:
        fresh = each.differ(Difference(f"saga {number}", "state", "a", "b") for number in range(REMEMBERED + 5))
        assert (len(fresh), each.counts["differing"]) == (REMEMBERED, REMEMBERED + 5)


def test_memory_does_not_grow_with_the_number_of_sagas() -> None:
    """Ended or not: beyond the number that is kept they go to the disk, and none is lost."""
    with ReplayState(None, IDENTITY, RULES, kept=20) as each:
        many = [folded(each.sagas).saga_id for _ in range(100)]
        gc.collect()
        tracemalloc.start()
        try:
            began = tracemalloc.get_traced_memory()[0]
            many += [folded(each.sagas).saga_id for _ in range(500)]
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - began
        finally:
            tracemalloc.stop()
        assert grown < 500 * 600, "ids, here and in bounded caches; a saga kept takes 2 kB more"
        assert sum(1 for _ in each.sagas) == len(many)
        assert all(each.sagas.get(saga_id) is not None for saga_id in many[::50])
