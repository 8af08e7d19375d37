"""An export as the evidence on which retired records may be dropped."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.folder import ExportFolder
from tradesaga.consumers.audit.export.layout import FormatError
from tradesaga.consumers.audit.export.manifest import Manifest
from tradesaga.consumers.audit.export.verify import Keys, verify_export
from tradesaga.consumers.audit.retention.drop import Evidence, Exported
from tradesaga.infra.audit_log.note import Verifier
from tradesaga.infra.errors import CommandError, ExitCode


def read_evidence(path: Path, log_id: str, trusted: Mapping[bytes, Verifier]) -> Evidence:
    """Verify an export, and say which whole stretches of this installation's logs it holds.

    Raises `CommandError`: exit 3 where there is no export, exit 4 where it does not verify or is another's.
    """
    report = verify_export(path, Keys(trusted, {}), [], lambda _done, _of: None)
    if report.findings:
        first = report.findings[0]
        raise _refused(path, f"it does not verify: {first.where}: {first.what}")
    try:
        text = ExportFolder(path).read(layout.MANIFEST)
        manifest = Manifest.parse(text)
    except FormatError as error:
        raise _refused(path, f"it does not verify: {error}") from error
    if manifest.log_id != log_id:
        raise _refused(path, f"it is of {manifest.log_id}, not of {log_id}")
    if not manifest.query.whole:
        raise _refused(path, "it holds some sagas only; export by time, or all")
    logs = [
        Exported(log.topic, log.partition, log.first_offset, log.last_offset)
        for log in manifest.logs
        if not log.gaps and not log.further_gaps
    ]
    return Evidence(hashlib.sha256(text).hexdigest(), str(path), logs)


def _refused(path: Path, what: str) -> CommandError:
    do = "make another with `tradesaga audit export`, before the partition is retired"
    return CommandError("export-refused", f"the export is no evidence: {what}", str(path), do, ExitCode.REFUSED)
