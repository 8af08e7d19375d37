"""Exports made of a real database: whole, of a time, or of some sagas; each is proven without the database."""

import ast
import csv
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import orjson
import pytest
import pytest_asyncio

from tests.integration.consumers.audit.export import hands
from tests.integration.consumers.audit.export.rig import ExportRig
from tests.sagas import RECORDED_MS
from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.manifest import Manifest, Query
from tradesaga.consumers.audit.log.log_check import Verdict
from tradesaga.infra.audit_log.note import Signer
from tradesaga.infra.errors import CommandError, ExitCode

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]

VERIFIER = Path(__file__).with_name("independent.py")


@pytest_asyncio.fixture
async def rig(database_url: str, tmp_path: Path) -> AsyncIterator[ExportRig]:
    """Give a log and its exports."""
    async with ExportRig.open(database_url, tmp_path) as rig:
        yield rig


def believed_by_others(rig: ExportRig, path: Path) -> bool:
    """Ask the independent verifier, in a process that finds nothing of ours."""
    keys = (str(rig.exporter.verifier), str(rig.log.signer.verifier))
    command = [sys.executable, "-I", str(VERIFIER), str(path), *keys]
    done = subprocess.run(command, cwd=path, capture_output=True, text=True, check=False)
    return done.returncode == 0 and "are what was sealed" in done.stdout


async def test_a_whole_export_is_believed(rig: ExportRig) -> None:
    """All records of all sagas, byte for byte, by our verifier and by one that shares no line with it."""
    path, manifest = await rig.export("whole")
    report = rig.verify(path)
    assert report.findings == report.remarks == []
    assert (manifest.records, manifest.sagas, report.rows, report.unreadable) == (60, 12, 60, 0)
    assert believed_by_others(rig, path)
    stored = await rig.log.sql.fetch('SELECT * FROM saga_event ORDER BY topic, partition, "offset"')
    written = hands.read(path)
    assert [line["value"].encode() for line in written] == [row["value"] for row in stored]
    assert [line["headers"] for line in written] == [row["headers"] for row in stored]


@pytest.mark.parametrize(
    "query",
    [Query(account="B"), Query(symbol="GBP/USD"), Query(account="B", symbol="GBP/USD", to_ms=RECORDED_MS + 14)],
    ids=["account", "symbol", "both, and a time"],
)
async def test_some_sagas_are_proven_without_the_others(rig: ExportRig, query: Query) -> None:
    """Roots of subtrees stand for the records that were not asked for."""
    path, manifest = await rig.export("some", query)
    report = rig.verify(path)
    assert report.findings == []
    assert 0 < manifest.records < 60
    assert all(b"GBP/USD" in line["value"].encode() for line in hands.read(path) if line["seq"] == 1)
    assert hands.read(path, layout.PROOFS)
    assert any("some sagas" in remark for remark in report.remarks)
    assert believed_by_others(rig, path)


async def test_one_saga_is_proven_by_its_chain_and_a_few_roots(rig: ExportRig) -> None:
    """Five records, seq 1 to 5, and no more than two roots a level of the tree."""
    saga_id = str(next(iter(rig.log.known)))
    path, manifest = await rig.export("one", Query(ids=(saga_id,)))
    assert [line["seq"] for line in hands.read(path)] == [1, 2, 3, 4, 5]
    assert (manifest.records, manifest.sagas, len(manifest.logs)) == (5, 1, 1)
    assert len(hands.read(path, layout.PROOFS)) <= 6 * 2 * 6
    assert rig.verify(path).findings == []
    assert believed_by_others(rig, path)


@pytest.mark.parametrize(("begin", "end"), [(5, 15), (None, 9), (11, None), (7, 7), (-9, 0), (900, 999)])
async def test_a_time_is_shown_to_begin_and_end_where_it_does(
    rig: ExportRig, begin: int | None, end: int | None
) -> None:
    """One record before and one after the window are there; chains that began before go on from a given hash."""
    query = Query(
        from_ms=RECORDED_MS + begin if begin is not None else None, to_ms=RECORDED_MS + end if end is not None else None
    )
    path, _ = await rig.export("window", query)
    assert rig.verify(path).findings == []
    assert believed_by_others(rig, path)
    inside = {
        (row["partition"], row["offset"])
        for row in await rig.log.sql.fetch('SELECT partition, "offset" FROM saga_event')
        if (begin is None or row["offset"] >= begin) and (end is None or row["offset"] < end)
    }
    there = {(line["partition"], line["offset"]) for line in hands.read(path)}
    assert inside <= there
    assert len(there - inside) <= 2 * 3


async def test_the_edges_of_a_time_cannot_be_moved(rig: ExportRig) -> None:
    """An exporter who leaves the first or last records of the window out, and signs, is found out."""
    query = Query(from_ms=RECORDED_MS + 5, to_ms=RECORDED_MS + 15)
    path, manifest = await rig.export("window", query)
    narrow, _ = await rig.export("narrow", Query(from_ms=RECORDED_MS + 7, to_ms=RECORDED_MS + 13))
    narrow_manifest = Manifest.parse((narrow / layout.MANIFEST).read_bytes())
    assert narrow_manifest.records < manifest.records
    hands.sign_again(narrow, rig.exporter, query=query)
    report = rig.verify(narrow)
    assert not report.holds(Verdict.INCOMPLETE)
    assert {"begins", "ends"} == {finding.what.split()[1] for finding in report.findings}
    assert rig.verify(path).findings == []


async def test_what_is_not_sealed_yet_is_counted_and_left_out(rig: ExportRig) -> None:
    """A saga that goes on after the last seal is there as far as it is sealed."""
    await rig.record(2, seal=False)
    path, manifest = await rig.export("early")
    assert (manifest.records, manifest.not_yet_sealed) == (60, 10)
    report = rig.verify(path)
    assert report.findings == []
    assert report.remarks == ["10 newer records were not sealed when it was made"]


async def test_payloads_that_cannot_be_read_are_counted_and_proven(rig: ExportRig) -> None:
    """Ciphertext, and a type of another version: both verdicts hold, in the export and in the database."""
    saga_id = next(iter(rig.log.known))
    headers = orjson.loads((await rig.log.rows(saga_id))[0]["headers"])
    for value, kind in ((b"\x00\xff\x80sealed", "small.held.v1"), (b"{}", "small.held.v9")):
        told = [(name, text.encode()) for name, text in (headers | {"ce_type": kind, "ts_step": "hold"}).items()]
        await rig.enter(saga_id, value, told)
    await rig.log.seal()
    path, manifest = await rig.export("opaque")
    report = rig.verify(path)
    assert (report.findings, report.unreadable, manifest.records) == ([], 2, 62)
    assert believed_by_others(rig, path)
    types = frozenset(kind for kind, _ in rig.log.rules.saga.registry.items())
    stored = await rig.log.verify(types=types)
    assert (stored.findings, stored.unreadable) == ([], 2)


@pytest.mark.parametrize(
    "hand", [hands.flip_a_byte, hands.remove_a_row, hands.cut_the_tail, hands.swap_two_rows, hands.tell_another_state]
)
async def test_an_independent_verifier_is_red_too(rig: ExportRig, hand: hands.Hand) -> None:
    """What was tampered with is not believed; signed again by the export's key, still not where a seal covers it."""
    path, _ = await rig.export("whole")
    hand(path)
    assert not believed_by_others(rig, path)
    if hand is not hands.tell_another_state:
        hands.sign_again(path, rig.exporter)
        assert not believed_by_others(rig, path)


async def test_a_gap_in_the_topic_is_listed_and_not_called_complete(rig: ExportRig) -> None:
    """Offsets that were lost before the audit log saw them: nobody can tell what was there."""
    for partition in rig.log.ends:
        rig.log.ends[partition] += 3
    ends = dict(rig.log.ends)
    await rig.record(9)
    path, manifest = await rig.export("gaps")
    grown = [log for log in manifest.logs if rig.log.ends[log.partition] > ends[log.partition]]
    assert [log.gaps for log in grown] == [((ends[log.partition] - 3, ends[log.partition] - 1),) for log in grown]
    report = rig.verify(path)
    assert report.holds(Verdict.ALTERED)
    assert not report.holds(Verdict.INCOMPLETE)
    assert len([finding for finding in report.findings if "are missing" in finding.what]) == len(grown) > 0


async def test_the_independent_verifier_imports_nothing_of_ours() -> None:
    """The standard library, and Ed25519."""
    tree = ast.parse(VERIFIER.read_text())
    names = [each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"cryptography"}


async def test_a_log_that_does_not_fit_its_seal_is_not_exported(rig: ExportRig) -> None:
    """Nothing is left behind, and the next command to run is named."""
    await rig.log.attack('UPDATE saga_event SET hash = set_byte(hash, 0, get_byte(hash, 0) # 1) WHERE "offset" = 2')
    with pytest.raises(CommandError, match="audit verify") as refused:
        await rig.export("altered")
    assert (refused.value.code, refused.value.exit_code) == ("audit-altered", ExitCode.CHECK_FAILED)
    assert [path.name for path in rig.folder.iterdir() if path.is_dir()] == []


async def test_an_export_is_never_written_over_another(rig: ExportRig) -> None:
    """Nor over anything else."""
    await rig.export("once")
    (rig.folder / "file").touch()
    (rig.folder / "link").symlink_to("nowhere")
    for name in ("once", "file", "link"):
        with pytest.raises(CommandError, match="something already"):
            await rig.export(name)
    with pytest.raises(CommandError, match="no such folder"):
        await rig.export("nowhere/once")


async def test_a_full_disk_is_told_and_nothing_is_left(rig: ExportRig) -> None:
    """A limit on the size of files, the smallest of all disks, stands for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CommandError, match="the export cannot be written") as told:
            await rig.export("full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.value.exit_code is ExitCode.UNAVAILABLE
    assert [path.name for path in rig.folder.iterdir() if path.is_dir()] == []


async def test_nothing_sealed_and_nothing_found_are_told(rig: ExportRig) -> None:
    """With what to do about it."""
    with pytest.raises(CommandError, match="no sealed record fits"):
        await rig.export("none", Query(account="nobody"))
    with pytest.raises(CommandError, match="no sealed record fits"):
        await rig.export("none", Query(ids=(str(UUID(int=7)),)))
    await rig.log.attack("DELETE FROM audit_checkpoint")
    with pytest.raises(CommandError, match="nothing is sealed yet"):
        await rig.export("none")


async def test_checkpoints_that_no_known_key_has_signed_are_not_exported(rig: ExportRig) -> None:
    """A key that is not in the .pub file is named as what is missing."""
    rig.log.signer = Signer.generate("another")
    with pytest.raises(CommandError, match="no known key has signed"):
        await rig.export("foreign")


async def test_the_manifest_says_what_it_is_about(rig: ExportRig) -> None:
    """Ranges, types, keys, the clock, and every file with its hash; the order sheet has its heading."""
    path, manifest = await rig.export("whole")
    assert manifest.types == {f"small.{name}.v1": 12 for name in ("filled", "held", "order-asked", "placed", "settled")}
    assert {file.path for file in manifest.files} >= {f"schemas/{kind}.json" for kind in manifest.types}
    assert sum(log.last_offset - log.first_offset + 1 for log in manifest.logs) == 60
    assert manifest.clock.unknown == manifest.clock.checkpoints > 0
    assert manifest.export_key == str(rig.exporter.verifier)
    assert str(rig.log.signer.verifier) in (path / layout.README).read_text()
    assert next(csv.reader((path / layout.ORDERS).read_text().splitlines()))[0] == "saga_id"
