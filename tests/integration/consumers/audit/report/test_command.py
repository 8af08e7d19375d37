"""`tradesaga audit show` on real rows: each record's seal is proven, and where somebody has been at them, it is not."""

import asyncio
import io
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from tests.integration.consumers.audit.retention.rig import RetentionRig
from tests.integration.consumers.audit.rig import STORY, AuditRig
from tradesaga.consumers.audit.log.retired_ranges import read_saga_heads
from tradesaga.consumers.audit.log.rows import Position, read_saga_rows, snapshot
from tradesaga.consumers.audit.report.model import Proof, Seal
from tradesaga.consumers.audit.report.seal_finder import SealFinder
from tradesaga.consumers.audit.report.timeline_builder import arrange, rehash
from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.clock_evidence import ClockTier
from tradesaga.infra.audit_log.merkle import check_inclusion, hash_leaf
from tradesaga.infra.audit_log.note import Signer, open_note
from tradesaga.infra.cli.entry import execute

NOTE = "SELECT note FROM audit_checkpoint WHERE (topic, partition, size) = ($1, $2, $3)"
pytestmark = [pytest.mark.stack, pytest.mark.asyncio]


@pytest_asyncio.fixture
async def rig(database_url: str, tmp_path: Path) -> AsyncIterator[RetentionRig]:
    """Give an audit log of which some is sealed and some is not yet."""
    sql = await asyncpg.connect(database_url, server_settings={"timezone": "UTC"})
    rig = RetentionRig(sql, tmp_path)
    await rig.make_months()
    yield rig
    await sql.close()


async def seals_of(rig: AuditRig, saga_id: UUID, *, proving: bool = True) -> dict[Position, Seal]:
    """Look at the seals of a saga's records."""
    trusted = {rig.signer.verifier.id: rig.signer.verifier}
    async with snapshot(rig.sql):
        rows = arrange(await read_saga_rows(rig.sql, saga_id))
        hashes = rehash(rows, await read_saga_heads(rig.sql, saga_id))
        sealing = SealFinder(rig.sql, "test", trusted, ClockTier.parse("1 ms"), proving)
        return await sealing.look([(row.position, found) for row, found in zip(rows, hashes, strict=True)])


async def proofs_of(rig: AuditRig, saga_id: UUID) -> list[Proof]:
    """Say which are proven."""
    return [seal.proof for seal in (await seals_of(rig, saga_id)).values()]


async def test_records_are_proven_to_be_in_the_first_checkpoint_that_covers_them(rig: RetentionRig) -> None:
    """By a path that anybody can check against the signed root alone; later records are not sealed yet."""
    first = await rig.month(1, sagas=6)
    ids = await rig.month(1, sagas=6, story=STORY[:3])
    await rig.go_on(ids, STORY[3:])
    trusted = {rig.signer.verifier.id: rig.signer.verifier}
    for saga_id in (first[0], ids[-1]):
        seals = await seals_of(rig, saga_id)
        sealed = 5 if saga_id == first[0] else 3
        assert [seal.proof for seal in seals.values()] == [Proof.PROVEN] * sealed + [Proof.NOT_YET] * (5 - sealed)
        for row in (await rig.rows(saga_id))[:sealed]:
            place = Position(row["topic"], row["partition"], row["offset"])
            seal = seals[place]
            note = await rig.sql.fetchval(NOTE, *place[:2], seal.size)
            root = Checkpoint.parse(open_note(note, trusted)[0]).root
            check_inclusion(
                hash_leaf(row["hash"]), seal.index, seal.size, root, [bytes.fromhex(each) for each in seal.path]
            )
            assert seal.outside_tier  # nobody can tell how far the rig's clock is off
    unchecked = await seals_of(rig, first[0], proving=False)
    assert {(seal.proof, seal.time > 0) for seal in unchecked.values()} == {(Proof.UNCHECKED, True)}


async def test_an_altered_log_proves_nothing(rig: RetentionRig) -> None:
    """A changed byte, a rewritten chain, a missing row, an unknown key: no record is called proven."""
    ids = await rig.month(1, sagas=6)
    row = (await rig.rows(ids[0]))[2]
    place = (row["topic"], row["partition"], row["offset"])
    mine, rig.signer = rig.signer, Signer.generate("another")
    assert set(await proofs_of(rig, ids[0])) == {Proof.UNPROVEN}
    rig.signer = mine
    assert set(await proofs_of(rig, ids[0])) == {Proof.PROVEN}
    where = '(topic, partition, "offset") = ($1, $2, $3)'
    await rig.attack(f"UPDATE saga_event SET value = value || ' ' WHERE {where}", *place)
    assert (await proofs_of(rig, ids[0])).count(Proof.UNPROVEN) == 1
    await rig.recompute()
    assert (await proofs_of(rig, ids[0]))[2:] == [Proof.UNPROVEN] * 3
    await rig.attack(f"DELETE FROM saga_event WHERE {where}", *place)
    (told,) = {seal.why for seal in (await seals_of(rig, ids[0])).values()}
    assert f"offsets {place[2]} to {place[2]} are not in the log" in told


async def test_behind_what_was_retired_records_are_still_proven(rig: RetentionRig) -> None:
    """The signed tombstone stands for the leaves that are gone; a forged one leads to no root."""
    ids = await rig.month(1, story=STORY[:2])
    rig.at(2)
    await rig.go_on(ids, STORY[2:])
    await rig.seal()
    await rig.retire(1)
    assert await proofs_of(rig, ids[0]) == [Proof.PROVEN] * 3
    rows = arrange(await read_saga_rows(rig.sql, ids[0]))
    assert [row.seq for row in rows] == [3, 4, 5]
    assert rehash(rows, await read_saga_heads(rig.sql, ids[0])) == [row.hash for row in rows]
    await rig.attack("DELETE FROM audit_action")
    assert set(await proofs_of(rig, ids[0])) == {Proof.UNPROVEN}


async def run(rig: AuditRig, url: str, *arguments: str) -> tuple[int, str, str]:
    """Run the command in a thread, as the console script would."""
    (rig.folder / "audit.key.pub").write_text(f"{rig.signer.verifier}\n")
    environment = {
        "TRADESAGA_DATABASE_URL": url, "TRADESAGA_KAFKA": "127.0.0.1:1", "TRADESAGA_APP": "tests.named_saga",
        "TEST_SAGA": "small", "TRADESAGA_AUDIT_KEY": str(rig.folder / "audit.key"), "TRADESAGA_AUDIT_LOG_ID": "test",
        "TRADESAGA_AUDIT_CLOCK_TIER": "50 ms",
    }  # fmt: skip

    def shown() -> tuple[int, str, str]:
        sys.modules.pop("tests.named_saga", None)
        out, err = io.StringIO(), io.StringIO()
        with patch.dict(os.environ, environment), redirect_stdout(out), redirect_stderr(err):
            code = execute(("audit", "show", *arguments))
        return code, out.getvalue(), err.getvalue()

    return await asyncio.to_thread(shown)


async def test_the_command(rig: RetentionRig, database_url: str) -> None:
    """A table, JSON and a page of the same story; a saga that nobody knows is exit 3, with what to do."""
    (saga_id,) = await rig.month(1, sagas=1)
    code, out, _ = await run(rig, database_url, str(saga_id)[:8])
    assert code == 0
    assert "Completed: four steps done" in out
    assert "All records are sealed and proven" in out
    assert "signed while it was unknown whether the clock was within 50 ms" in " ".join(out.split())
    page = rig.folder / "story.html"
    code, out, _ = await run(rig, database_url, str(saga_id), "--json", "--html", str(page), "--open", "no")
    with patch("webbrowser.open") as opened:
        assert (await run(rig, database_url, str(saga_id), "--html", str(page), "--open", "yes"))[0] == 0
    opened.assert_called_once_with(page.as_uri())
    told = json.loads(out)
    assert (code, told["state"], len(told["records"])) == (0, "COMPLETED", 5)
    assert {each["seal"]["proof"] for each in told["records"]} == {"proven"}
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    code, out, err = await run(rig, database_url, str(uuid4()))
    assert (code, out) == (3, "")
    assert "there is no saga" in err
    code, _, err = await run(rig, database_url, str(saga_id), "--html", str(rig.folder / "no" / "where.html"))
    assert code == 2
    assert "cannot be written" in err


async def test_without_a_public_key_the_story_is_told_unproven(rig: RetentionRig, database_url: str) -> None:
    """It says so; a key that was named and is not there is an error."""
    (saga_id,) = await rig.month(1, sagas=1)
    key = rig.folder / "elsewhere.pub"
    assert (await run(rig, database_url, str(saga_id), "--key", str(key)))[0] == 3
    with patch("tradesaga.infra.settings.Settings.audit_key_file", return_value=rig.folder / "none"):
        code, out, _ = await run(rig, database_url, str(saga_id))
    assert code == 0
    assert "no public key is available" in out
