"""Checkpoints and proofs are read by Go's own transparency-log packages (golang.org/x/mod/sumdb)."""

import json
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.merkle_tree import Tree
from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.merkle import hash_leaf
from tradesaga.infra.audit_log.note import Signer

pytestmark = pytest.mark.full

SOURCES = Path(__file__).parent / "tlog_reader"
LEAVES = [f"record {number}".encode() for number in range(11)]
SIGNER = Signer.generate("desk-7/2026")
INDEX, OLDER = 6, 4


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the Go program."""
    go = shutil.which("go")
    assert go is not None, "this test needs Go: Debian's package is golang-go"
    program = tmp_path_factory.mktemp("go") / "tlogreader"
    built = subprocess.run([go, "build", "-o", str(program), "."], cwd=SOURCES, capture_output=True, check=False)
    assert built.returncode == 0, built.stderr.decode()
    return program


def encoded(hashes: Sequence[bytes]) -> list[str]:
    """Give hashes as Go's JSON takes them."""
    return [b64encode(each).decode() for each in hashes]


def question(**changed: object) -> dict[str, object]:
    """Ask whether leaf 6 is in a log of eleven, and whether that goes on from one of four."""
    tree = Tree([hash_leaf(leaf) for leaf in LEAVES])
    checkpoint = Checkpoint("desk-7/trade.events/3", tree.size, tree.root(), 11, "", 1_700_000_000_000_000_000)
    asked: dict[str, object] = {
        "key": str(SIGNER.verifier),
        "note": SIGNER.sign(checkpoint.to_text()),
        "leaf": b64encode(LEAVES[INDEX]).decode(),
        "index": INDEX,
        "older": OLDER,
        "olderRoot": b64encode(tree.root(OLDER)).decode(),
        "inclusion": encoded(tree.inclusion(INDEX)),
        "consistency": encoded(tree.consistency(OLDER)),
    }
    return asked | changed


def ask(reader: Path, asked: dict[str, object]) -> tuple[int, str]:
    """Run the program; give its exit code and what it says."""
    ran = subprocess.run([str(reader)], input=json.dumps(asked), capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout.strip()


def test_go_believes_what_is_true(reader: Path) -> None:
    """The signature, an inclusion proof and a consistency proof."""
    assert ask(reader, question()) == (0, "believed")


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"leaf": b64encode(b"another record").decode()}, "inclusion"),
        ({"index": INDEX - 1}, "inclusion"),
        ({"older": OLDER - 1}, "consistency"),
        ({"key": str(Signer.generate("desk-7/2026").verifier)}, "note has no verifiable signatures"),
    ],
)
def test_go_does_not_believe_what_is_not(reader: Path, changed: dict[str, object], complaint: str) -> None:
    """Another leaf, another place, another past, another key."""
    code, said = ask(reader, question(**changed))
    assert (code, complaint in said) == (1, True), said
