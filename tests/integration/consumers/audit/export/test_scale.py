"""The scale run in small: real sagas through the services, sealed by the sealer, and each command of the audit."""

import os
import sys
from pathlib import Path

import pytest

from tests.audit_scale.run import ScaleRun

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

DEAF = """
import sys
def refuse(event, args):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"}:
        raise RuntimeError(f"something calls out: {event} {args}")
sys.addaudithook(refuse)
sys.argv = sys.argv[1:]
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"), {"__name__": "__main__"})
"""


def test_facts_of_the_product_are_exported_and_verified_with_nothing_in_reach(
    kafka: str, database_url: str, tmp_path: Path
) -> None:
    """Six facts a saga; the verification knows no server, and ends if it calls one."""
    run = ScaleRun({**os.environ, "TRADESAGA_KAFKA": kafka, "TRADESAGA_DATABASE_URL": database_url}, tmp_path)
    records = run.load(600)
    assert records == 600
    stored = run.tell("verify", records, "verify")
    assert (stored["unaltered"], stored["complete"], stored["unreadable"]) == (True, True, 0)
    made = run.tell("export", records, "export", "--out", str(run.export))
    assert (made["records"], made["sagas"]) == (600, 100)
    (tmp_path / "deaf.py").write_text(DEAF)
    python = sys.executable
    told = run.verify_with_nothing_in_reach("verify the export", records, (python, str(tmp_path / "deaf.py")))
    assert (told["unaltered"], told["complete"], told["rows"], told["findings"]) == (True, True, 600, [])
