"""A log that an older release began and this one goes on with; and rows that nobody but the saga log should write."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from sys import executable
from typing import cast

import asyncpg
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from tests.integration.consumers.audit.export.rig import EVERYTHING, ExportRig
from tests.integration.consumers.audit.rig import GROUP, STORY, TOPIC, AuditRig
from tests.sagas import RECORDED_MS, Filled, Held, OrderAsked, Placed, Settled, headers_of
from tradesaga.consumers.audit.log.log_check import Report, Verdict
from tradesaga.consumers.audit.seal.service import UnsealedWatch
from tradesaga.consumers.saga_log.chain import format_of
from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.clock_evidence import UNKNOWN
from tradesaga.infra.audit_log.note import open_note
from tradesaga.infra.kafka.codec import Record, dump_headers
from tradesaga.infra.telemetry.metrics import Health
from tradesaga.schemas.envelope import Header

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]

INDEPENDENT = Path(__file__).parents[1] / "export" / "independent.py"
_PLANT = """
INSERT INTO saga_event (topic, partition, "offset", recorded_at, saga_id, headers, value, hash, writer_epoch)
SELECT topic, partition, $2, recorded_at + $3, saga_id, headers, value, hash, writer_epoch
FROM saga_event WHERE topic = $1 AND partition = 0 ORDER BY "offset" LIMIT 1
"""


@pytest_asyncio.fixture
async def rig(database_url: str, tmp_path: Path) -> AsyncIterator[AuditRig]:
    """Give an audit log and what it needs."""
    sql = await asyncpg.connect(database_url)
    yield AuditRig(sql, tmp_path)
    await sql.close()


async def mixed(rig: AuditRig) -> None:
    """Seal sagas of the older format, some of which go on in the newer one, and such of the newer alone."""
    rig.form = 1
    ids = await rig.record(6, STORY[:2])
    await rig.seal()
    await rig.record(3)
    rig.form = 2
    await rig.go_on(ids, STORY[2:])
    await rig.seal()
    await rig.record(6)
    await rig.seal()


async def checkpoints(rig: AuditRig) -> list[Checkpoint]:
    """Read all checkpoints."""
    notes = await rig.sql.fetch("SELECT note FROM audit_checkpoint ORDER BY topic, partition, size")
    key = rig.signer.verifier
    return [Checkpoint.parse(open_note(row["note"], {key.id: key})[0]) for row in notes]


async def test_a_log_of_both_formats_verifies(rig: AuditRig) -> None:
    """Checkpoints of before are as they were; those from then on say where the newer format begins."""
    await mixed(rig)
    report = await rig.verify()
    assert (report.findings, report.unsealed) == ([], 0)
    begins = {
        f"test/{TOPIC}/{row[0]}": row[1]
        for row in await rig.sql.fetch(
            'SELECT partition, min("offset") FROM saga_event WHERE octet_length(hash) = 33 GROUP BY partition'
        )
    }
    found = await checkpoints(rig)
    assert {each.leaves_from for each in found} == {None, *begins.values()}
    assert all(each.leaves_from in {None, begins[each.origin]} for each in found)
    first = [each for each in found if each.leaves_from is None]
    assert len(first) == len(begins) == 3
    assert all("format" not in each.to_text() for each in first)
    assert all("\nformat 2\nleaf-format 2 from " in each.to_text() for each in found if each not in first)


async def test_an_old_row_cannot_pass_for_a_newer_one(rig: AuditRig) -> None:
    """Nor a newer one for an older: with every hash made anew, the trees are others, and the place is told."""
    for form, other in ((1, 2), (2, 1)):
        if not rig.known:
            await mixed(rig)
        report = await relabelled(rig, form, other)
        assert not report.holds(Verdict.ALTERED)
        assert any(f"the hash is of format {other}" in each.what for each in report.findings)
        assert any("are not those that were sealed" in each.what for each in report.findings)


async def relabelled(rig: AuditRig, form: int, other: int) -> Report:
    """Have a log's last row of one format be of the other, verify, and put it back."""
    rows = await rig.sql.fetch('SELECT * FROM saga_event WHERE partition = 0 ORDER BY "offset"')
    row = [each for each in rows if format_of(each["hash"]) == form][-1]
    change = 'UPDATE saga_event SET hash = $3 WHERE topic = $1 AND partition = 0 AND "offset" = $2'
    await rig.attack(change, TOPIC, row["offset"], row["hash"][1:] if other == 1 else b"\2" + row["hash"])
    report = await rig.verify()
    await rig.attack(change, TOPIC, row["offset"], row["hash"])
    return report


async def odd(rig: AuditRig) -> Record:
    """Enter a record that the older format could not keep, and seal it."""
    (saga_id,) = await rig.record(1, STORY[:1])
    partition = rig.known[saga_id].home
    headers: list[Header] = [*headers_of(rig.rules.saga, Held(), saga_id), ("x", b"1"), ("x", b"\xff"), ("y", b"")]
    offset = rig.ends[partition]
    record = Record(TOPIC, partition, offset, RECORDED_MS + offset, str(saga_id).encode(), Held().to_wire(), headers)
    await rig.enter(record)
    await rig.seal()
    return record


def headers_as(change: Callable[[Record], str]) -> Callable[[Record], str]:
    """Give what the headers of a record are changed to."""
    return change


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("key", b"another"),
        ("key", None),
        ("headers", headers_as(lambda record: dump_headers([*record.headers[:-3], ("x", b"2"), *record.headers[-2:]]))),
        ("headers", headers_as(lambda record: dump_headers([each for each in record.headers if each != ("x", b"1")]))),
        ("headers", headers_as(lambda record: dump_headers([*record.headers[:-1], ("y", cast("bytes", None))]))),
        ("headers", headers_as(lambda record: dump_headers(record.headers).replace('["x","1"]', '["x", "1"]'))),
        ("headers", headers_as(lambda _: "nonsense")),
        ("value", None),
    ],
)
async def test_a_changed_key_or_header_is_found(
    rig: AuditRig, column: str, value: bytes | Callable[[Record], str] | None
) -> None:
    """One of two of a name, none in the place of an empty one, other spelling, the key: each makes another record."""
    record = await odd(rig)
    assert (await rig.verify()).findings == []
    told = value(record) if callable(value) else value
    where = 'WHERE topic = $1 AND partition = $2 AND "offset" = $3'
    await rig.attack(f"UPDATE saga_event SET {column} = $4 {where}", *record[:3], told)
    report = await rig.verify()
    assert next(each.where for each in report.findings if each.verdict is Verdict.ALTERED).endswith(f"{record.offset}")


async def test_a_row_planted_far_ahead_is_named_and_never_sealed(rig: AuditRig) -> None:
    """Sealing goes on behind what the saga log has read, and the planted row is no part of it."""
    await rig.record(6)
    await rig.sql.execute(_PLANT, TOPIC, 1_000_000, timedelta())
    assert await rig.seal() == 3
    await rig.record(6)
    assert await rig.seal() == 3
    report = await rig.verify()
    assert [(each.verdict, each.where) for each in report.findings] == [(Verdict.ALTERED, f"{TOPIC}[0] offset 1000000")]
    assert "it is forged" in report.findings[0].what
    assert report.unsealed == 0
    assert all(each.next_offset < 1_000_000 for each in await checkpoints(rig))


async def test_a_row_planted_in_the_place_of_a_record_halts_its_log_alone(rig: AuditRig) -> None:
    """The others are sealed; the oldest record that is not gets older, and somebody is told."""
    await rig.record(3)
    sealer = rig.sealer()
    await sealer.open(rig.sql)
    assert len(await sealer.seal(rig.sql, UNKNOWN)) == 3
    await rig.sql.execute(_PLANT, TOPIC, rig.ends[0], timedelta(seconds=1))
    await rig.record(3)
    assert {each.origin.partition for each in await sealer.seal(rig.sql, UNKNOWN)} == {1, 2}
    assert list(sealer.halted) == [f"test/{TOPIC}/0"]
    assert await sealer.seal(rig.sql, UNKNOWN) == []
    assert set(sealer.unsealed) == {TOPIC}
    health = Health()
    UnsealedWatch(60, health).see({"small": TOPIC}, sealer.unsealed)
    assert "small have waited" in health.warning
    assert (REGISTRY.get_sample_value("tradesaga_audit_unsealed_seconds", {"saga": "small"}) or 0) > 60
    assert any("the offset comes twice" in each.what for each in (await rig.verify()).findings)


async def test_a_log_that_was_sealed_beyond_what_was_read_is_told(rig: AuditRig) -> None:
    """As an older release sealed it: nothing of it is sealed in silence any more."""
    await rig.record(3)
    await rig.sql.execute(_PLANT, TOPIC, 1000, timedelta())
    end = rig.ends[0]
    await rig.sql.execute('UPDATE lane SET next_offset = 1001 WHERE "group" = $1 AND partition = 0', GROUP)
    await rig.seal()
    await rig.sql.execute('UPDATE lane SET next_offset = $2 WHERE "group" = $1 AND partition = 0', GROUP, end)
    sealer = rig.sealer()
    await sealer.open(rig.sql)
    assert "sealed up to offset 1001, but the saga log has read up to" in sealer.halted[f"test/{TOPIC}/0"]


async def test_lost_checkpoints_of_a_mixed_log_are_restored(rig: AuditRig) -> None:
    """The witness's own, and the next one says the same of where the newer format begins."""
    await mixed(rig)
    before = await checkpoints(rig)
    await rig.attack("DELETE FROM audit_checkpoint")
    await rig.attack("DELETE FROM audit_edge")
    sealer = rig.sealer()
    await sealer.open(rig.sql)
    await sealer.seal(rig.sql, UNKNOWN)
    assert await checkpoints(rig) == before
    await rig.record(3)
    assert len(await sealer.seal(rig.sql, UNKNOWN)) == 3
    assert (await rig.verify()).findings == []


async def test_an_export_of_both_formats_proves_itself(database_url: str, tmp_path: Path) -> None:
    """To ours and to one that shares no code with ours; with a record that only the newer format can keep."""
    async with ExportRig.open(database_url, tmp_path, form=1) as rig:
        rig.log.form = 2
        ids = await rig.record(3, [OrderAsked(idempotency_key="k", account="B"), Held(), Placed(), Filled()])
        await rig.enter(
            ids[0], Settled().to_wire(), [*headers_of(rig.log.rules.saga, Settled(), ids[0]), ("x", b"\xff")]
        )
        await rig.log.seal()
        path, manifest = await rig.export("both", EVERYTHING)
        report = rig.verify(path)
        assert (report.findings, report.rows) == ([], manifest.records)
        assert manifest.format == "tradesaga-audit-export/2"
        keys = [str(rig.exporter.verifier), str(rig.log.signer.verifier)]
        ran = await asyncio.create_subprocess_exec(executable, str(INDEPENDENT), str(path), *keys)
        assert await ran.wait() == 0
