"""Verifies an export without a server, with the same check of each log and the same verdicts as `audit verify`.

The folder is untrusted. Its files are compared with the manifest, the manifest with its signature, and the records,
with the roots of those that were left out, with the checkpoints that were signed at the time. An altered export is
never called complete.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.folder import ExportFolder, is_safe
from tradesaga.consumers.audit.export.layout import FormatError, from_line, from_proof, read_saga_line
from tradesaga.consumers.audit.export.log_reader import LineReader, LogReader
from tradesaga.consumers.audit.export.manifest import File, Log, Manifest, note_text
from tradesaga.consumers.audit.export.retired import check_retired, read_entry
from tradesaga.consumers.audit.log.action_log import Entry
from tradesaga.consumers.audit.log.log_check import LogCheck, Report, Verdict, by_size, merge_checkpoints, read_notes
from tradesaga.infra.audit_log.checkpoint import Checkpoint, Origin, hash_note
from tradesaga.infra.audit_log.note import NoteError, Verifier, open_note
from tradesaga.infra.audit_log.witness import WitnessFile

Trusted = Mapping[bytes, Verifier]
_NEEDED: Final = (layout.EVENTS, layout.SAGAS, layout.CHECKPOINTS, layout.PROOFS, layout.KEYS, layout.ORDERS)


class Keys(NamedTuple):
    """Trusted keys: those that seal logs, and those that may only sign exports."""

    seals: Trusted
    exports: Trusted


def verify_export(
    path: Path, keys: Keys | None, witnesses: Sequence[WitnessFile], progress: Callable[[int, int], None]
) -> Report:
    """Verify an export; without `keys` its own are used, with a remark. A key that seals may sign exports too.

    `progress` is called with the number of checked records and of all. Raises `CommandError` if there is no folder.
    """
    folder, report = ExportFolder(path), Report()
    try:
        text = folder.read(layout.MANIFEST)
        manifest = Manifest.parse(text)
    except FormatError as error:
        report.add(Verdict.ALTERED, layout.MANIFEST, str(error))
        report.add(Verdict.INCOMPLETE, layout.MANIFEST, "without a manifest nothing shows what should be here")
        return report
    trusted, exporters = keys or Keys(_own_keys(report, folder), {})
    _check_signature(report, folder, text, {**exporters, **trusted})
    for what in folder.check_names(manifest.files):
        report.add(Verdict.ALTERED, layout.MANIFEST, what)
    for name in _NEEDED:
        if name not in {file.path for file in manifest.files}:
            report.add(Verdict.INCOMPLETE, layout.MANIFEST, f"it knows no {name}")
    if any(log.retired for log in manifest.logs):
        check_retired(report, manifest, _read_entries(report, folder), trusted)
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(_check_files, folder, manifest.files)
        _check_logs(report, folder, manifest, (trusted, witnesses), progress)
        _add_all(report, hashing)
    _conclude(report, manifest)
    return report


def _own_keys(report: Report, folder: ExportFolder) -> Trusted:
    report.remarks.append(
        "the keys are the export's own: whoever made the folder may have made them up; name keys you trust with --key"
    )
    try:
        found = [Verifier.parse(line) for line in folder.read(layout.KEYS).decode().splitlines()]
    except (FormatError, NoteError, UnicodeDecodeError) as error:
        report.add(Verdict.ALTERED, layout.KEYS, str(error))
        return {}
    return {key.id: key for key in found}


def _check_signature(report: Report, folder: ExportFolder, manifest: bytes, trusted: Trusted) -> None:
    try:
        signed, _ = open_note(folder.read(layout.SIGNATURE).decode(), trusted)
    except (FormatError, NoteError, UnicodeDecodeError) as error:
        report.add(Verdict.ALTERED, layout.SIGNATURE, str(error))
        return
    if signed != note_text(manifest):
        report.add(Verdict.ALTERED, layout.MANIFEST, "it is not the one that was signed")


def _check_files(folder: ExportFolder, files: Sequence[File]) -> list[tuple[Verdict, str, str]]:
    """Compare each file with the manifest; runs in its own thread, since hashing releases the GIL."""
    found: list[tuple[Verdict, str, str]] = []
    for file in files:
        if not is_safe(file.path):
            continue
        try:
            size, sha256 = folder.measure(file.path, file.bytes)
        except FormatError as error:
            found.append((Verdict.INCOMPLETE, file.path, str(error)))
            continue
        if size < file.bytes:
            found.append((Verdict.INCOMPLETE, file.path, f"it has {size:,} bytes of {file.bytes:,}"))
        if sha256 != file.sha256:
            found.append((Verdict.ALTERED, file.path, "it is not the file that the manifest knows"))
    return found


def _add_all(report: Report, hashing: Future[list[tuple[Verdict, str, str]]]) -> None:
    for finding in hashing.result():
        report.add(*finding)


def _check_logs(
    report: Report,
    folder: ExportFolder,
    manifest: Manifest,
    keys: tuple[Trusted, Sequence[WitnessFile]],
    progress: Callable[[int, int], None],
) -> None:
    """Check each log in the manifest's order, with its records, proofs and sagas."""
    known = _read_checkpoints(report, folder, manifest, *keys)
    events = LineReader(report, folder, layout.EVENTS, from_line, lambda line: line.row.record[:2])
    proofs = LineReader(report, folder, layout.PROOFS, from_proof, lambda proof: proof[0])
    sagas = LineReader(report, folder, layout.SAGAS, read_saga_line, lambda saga: saga.place)
    schemas = f"{layout.SCHEMAS}/"
    report.types = frozenset(
        file.path.removeprefix(schemas).removesuffix(".json")
        for file in manifest.files
        if file.path.startswith(schemas)
    )
    for log in manifest.logs:
        check = LogCheck(report, Origin(manifest.log_id, log.topic, log.partition), known.get(log.origin, {}))
        reading = LogReader(report, manifest, log, check, lambda rows: progress(rows, manifest.records))
        reading.read(events, proofs, sagas)
    for pieces in (events, proofs, sagas):
        pieces.finish()
    progress(report.rows, manifest.records)


def _read_checkpoints(
    report: Report, folder: ExportFolder, manifest: Manifest, trusted: Trusted, witnesses: Sequence[WitnessFile]
) -> dict[str, dict[int, Checkpoint]]:
    """Return the signed checkpoints by log and size, of the export and of the witnesses for the same records."""
    found = read_notes(report, layout.CHECKPOINTS, _notes(report, folder), trusted)
    report.checkpoints = sum(map(len, found.values()))
    logs = {log.origin: log for log in manifest.logs}
    for origin in found.keys() - logs.keys():
        report.add(Verdict.ALTERED, layout.CHECKPOINTS, f"{origin} is not a log of this export")
    for log in manifest.logs:
        _check_last(report, manifest, log, {hash_note(note) for _, note in found.get(log.origin, {}).values()})
    for number, witness in enumerate(witnesses, 1):
        where = f"witness {number}"
        seen = read_notes(report, where, (each.note for each in witness.read()), trusted)
        covered = {
            origin: {size: signed for size, signed in sizes.items() if size <= logs[origin].size}
            for origin, sizes in seen.items()
            if origin in logs
        }
        merge_checkpoints(report, found, where, covered)
    return {origin: by_size(sizes) for origin, sizes in found.items()}


def _check_last(report: Report, manifest: Manifest, log: Log, notes: set[str]) -> None:
    """Check a log's origin, and that its last checkpoint is there."""
    if log.origin != str(Origin(manifest.log_id, log.topic, log.partition)):
        report.add(Verdict.ALTERED, log.origin, f"it is not a log of installation {manifest.log_id}")
    if log.checkpoint not in notes:
        what = f"the checkpoint of its {log.size} records is missing, or no known key has signed it"
        report.add(Verdict.INCOMPLETE, log.origin, what)


def _notes(report: Report, folder: ExportFolder) -> Iterator[str]:
    try:
        for number, line in folder.lines(layout.CHECKPOINTS):
            yield _note(number, line)
    except FormatError as error:
        report.add(Verdict.ALTERED, layout.CHECKPOINTS, str(error))
        report.add(Verdict.INCOMPLETE, layout.CHECKPOINTS, "what follows is not read")


def _read_entries(report: Report, folder: ExportFolder) -> list[Entry]:
    found: list[Entry] = []
    try:
        found.extend(read_entry(line) for _, line in folder.lines(layout.ACTIONS))
    except FormatError as error:
        report.add(Verdict.ALTERED, layout.ACTIONS, str(error))
    return found


def _note(number: int, line: bytes) -> str:
    note = layout.read_line(line).get("note")
    if type(note) is not str:
        raise FormatError(f"line {number} is not a checkpoint")
    return note


def _conclude(report: Report, manifest: Manifest) -> None:
    """Add the remarks, and check the number of records."""
    if report.rows != manifest.records:
        what = f"{manifest.records:,} records are said to be here; {report.rows:,} are"
        report.add(Verdict.INCOMPLETE, layout.EVENTS, what)
    if manifest.not_yet_sealed:
        report.remarks.append(f"{manifest.not_yet_sealed:,} newer records were not sealed when it was made")
    if not manifest.query.whole:
        report.remarks.append(
            "it holds some sagas of its logs: that these are all that were asked for stands under its signature alone"
        )
    if not report.holds(Verdict.ALTERED) and report.holds(Verdict.INCOMPLETE):
        report.add(Verdict.INCOMPLETE, layout.MANIFEST, "what is altered is not called complete")
