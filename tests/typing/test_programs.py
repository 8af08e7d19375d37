"""pyright strict takes the right programs and refuses the wrong ones, where and why their comments say."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMENT = re.compile(r"# error: (.+)$")
Lines = dict[int, list[str]]


def check(folder: str, scratch: Path) -> dict[str, Lines]:
    """Run pyright strict over one folder; gives the errors by file name and line."""
    settings = {
        "include": [os.path.relpath(HERE / folder, scratch)], "extraPaths": [str(ROOT)], "typeCheckingMode": "strict",
        "pythonVersion": "3.11", "reportMissingTypeStubs": False,
        "venvPath": str(Path(sys.prefix).parent), "venv": Path(sys.prefix).name,
    }  # fmt: skip
    (scratch / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--project", str(scratch)]
    report: Any = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)

    assert report["summary"]["filesAnalyzed"] == len(list((HERE / folder).glob("*.py")))
    found: dict[str, Lines] = defaultdict(lambda: defaultdict(list))
    for each in report["generalDiagnostics"]:
        if each["severity"] == "error":
            line = each["range"]["start"]["line"] + 1
            found[Path(each["file"]).name][line].append(each["message"].replace("\xa0", " "))
    return found


def expected(path: Path) -> dict[int, str]:
    """Read the lines with a comment, and what their errors must say."""
    lines = enumerate(path.read_text().splitlines(), start=1)
    return {number: match[1] for number, line in lines if (match := COMMENT.search(line))}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lines]:
    """Give the errors of all wrong programs, found in one run."""
    return check("rejected", tmp_path_factory.mktemp("pyright"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", sorted((HERE / "rejected").glob("*.py")), ids=lambda path: path.stem)
def test_wrong_programs_are_refused(path: Path, refused: dict[str, Lines]) -> None:
    """Exactly the lines that say so have errors, and each error gives its reason."""
    wanted, found = expected(path), refused[path.name]

    assert found.keys() == wanted.keys()
    for line, reason in wanted.items():
        assert any(re.search(reason, message) for message in found[line]), (line, found[line])


@pytest.mark.timeout(300)
def test_right_programs_are_taken(tmp_path: Path) -> None:
    """Definitions and handlers that fit have not one error, with no cast and no ignore."""
    assert check("accepted", tmp_path) == {}
