"""Logs: one line an event on stderr, nothing secret in it."""

import json
import logging
import subprocess
import sys

from tradesaga.infra.telemetry.logs import HIDDEN, redact

PROGRAM = """
import logging, structlog
from tradesaga.infra.telemetry.logs import configure_logs
configure_logs("INFO", "json")
log = structlog.get_logger("saga-log").bind(saga_id="s-1")
log.debug("unheard")
log.info("folded", step="hold", password="hunter2")
logging.getLogger("aiokafka").info("chatter")
logging.getLogger("aiokafka").warning("no broker at %s", "postgresql://u:p@h/d")
try:
    raise ValueError("broken")
except ValueError:
    log.exception("failed")
"""


def test_a_process_logs_json_lines_to_stderr() -> None:
    """Bound values are there, secrets are not, levels hold, and libraries speak in the same shape."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert ran.stdout == ""
    folded, warned, failed = lines
    assert (folded["event"], folded["saga_id"], folded["step"]) == ("folded", "s-1", "hold")
    assert folded["password"] == HIDDEN
    assert (warned["logger"], warned["level"]) == ("aiokafka", "warning")
    assert "u:p" not in ran.stderr
    assert "ValueError: broken" in failed["exception"]
    assert folded["timestamp"].endswith("Z")


def test_secrets_are_hidden_by_name_and_in_addresses() -> None:
    """Names that sound secret, and credentials inside any address; the rest stays as it is."""
    line = {
        "event": "connecting", "url": "postgresql://ann:secret@db/x", "api_key": "k", "saga_id": "s", "attempt": 2,
    }  # fmt: skip
    seen = redact(logging, "info", dict(line))
    assert seen == {**line, "url": f"postgresql://{HIDDEN}@db/x", "api_key": HIDDEN}
