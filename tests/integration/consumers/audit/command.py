"""`tradesaga audit ... --json`, run in this process as the console script would."""

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tradesaga.infra.cli.entry import execute


def run_audit(kafka: str, url: str, saga: str, folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and what the command prints; `folder` holds the key and the witness."""
    environment = {
        "TRADESAGA_KAFKA": kafka,
        "TRADESAGA_DATABASE_URL": url,
        "TRADESAGA_AUDIT_KEY": str(folder / "audit.key"),
        "TRADESAGA_AUDIT_WITNESS": str(folder / "witness.jsonl"),
        "TRADESAGA_AUDIT_LOG_ID": "test",
        "TRADESAGA_APP": "tests.named_saga",
        "TEST_SAGA": saga,
    }
    sys.modules.pop("tests.named_saga", None)
    out, err = io.StringIO(), io.StringIO()
    with patch.dict(os.environ, environment), redirect_stdout(out), redirect_stderr(err):
        code = execute(["audit", *arguments, "--json"])
    assert out.getvalue(), err.getvalue()
    return code, json.loads(out.getvalue())
