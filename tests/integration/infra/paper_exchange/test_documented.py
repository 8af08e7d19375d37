"""The manual's examples run as they are written."""

import json
import re
import subprocess
import sys
from pathlib import Path

from pydantic import TypeAdapter

from tests.integration.infra.paper_exchange.process import PaperProcess
from tradesaga.infra.paper_exchange.faults import Fault

MANUAL = (Path(__file__).parents[4] / "docs" / "paper-venue.md").read_text()


def test_example_with_ccxt_trades(tmp_path: Path) -> None:
    """The Python example, against a venue on another port, prints a filled order and its fee."""
    (example,) = re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL)
    venue = PaperProcess(tmp_path, {"speed": 0.0}).start()

    program = example.replace("http://127.0.0.1:8090", venue.url)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    venue.stop()

    assert result.stdout.startswith("closed 1000.0 [{'currency': 'USD'"), result.stderr


def test_example_of_faults_is_accepted() -> None:
    """The faults in the example are valid ones, and the table names all kinds."""
    (body,) = re.findall(r"-d '(\[.*?\])'", MANUAL, re.DOTALL)

    faults = TypeAdapter(list[Fault]).validate_python(json.loads(body))

    assert [fault.kind for fault in faults] == ["lost_answer", "reject"]
    for kind in ("latency", "reject", "partial", "lost_answer", "outage"):
        assert f"| `{kind}` |" in MANUAL
