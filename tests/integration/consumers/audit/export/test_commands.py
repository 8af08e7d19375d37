"""The two commands as an operator and an examiner type them: exit codes, JSON, and what people read."""

import asyncio
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from tests.integration.consumers.audit.export import hands
from tests.integration.consumers.audit.export.rig import ExportRig
from tradesaga.consumers.audit.export import layout
from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.note import open_note, public_path
from tradesaga.infra.audit_log.witness import WitnessEntry, WitnessFile
from tradesaga.infra.cli.entry import execute

pytestmark = pytest.mark.stack


class Ran(NamedTuple):
    """What a command has done."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Read what it printed."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """Give the code of its error."""
        return json.loads(self.err.splitlines()[-1])["error"]["code"]


class Desk:
    """A filled log whose keys are in files, and a shell."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "audit.key"
        self.environment = {
            "TRADESAGA_DATABASE_URL": url,
            "TRADESAGA_AUDIT_KEY": str(self.key),
            "TRADESAGA_AUDIT_LOG_ID": "test",
            "TRADESAGA_HOME": str(folder / "home"),
        }
        asyncio.run(self._fill(url))

    async def _fill(self, url: str) -> None:
        async with ExportRig.open(url, self.folder) as rig:
            self.key.write_text(rig.log.signer.secret())
            public_path(self.key).write_text(f"{rig.log.signer.verifier}\n")
            self.signer = rig.log.signer
            self.saga = str(next(iter(rig.log.known)))

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> Ran:
        """Run a command as the console script would."""
        out, err = StringIO(), StringIO()
        settings = patch.dict("os.environ", self.environment if environment is None else environment)
        with settings, redirect_stdout(out), redirect_stderr(err):
            code = execute(["audit", *arguments])
        return Ran(code, out.getvalue(), err.getvalue())

    def examine(self, path: Path, *arguments: str) -> Ran:
        """Verify an export with the public key, and no setting."""
        key = str(public_path(self.key))
        return self.run("verify", "--export", str(path), "--key", key, *arguments, environment={})


@pytest.fixture(scope="module")
def desk(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Give a desk."""
    return Desk(module_database_url, tmp_path_factory.mktemp("desk"))


def test_an_operator_exports_and_an_examiner_verifies(desk: Desk, tmp_path: Path) -> None:
    """With the witness's file beside it, too."""
    made = desk.run("export", "--out", str(tmp_path / "e"), "--id", desk.saga, "--json")
    assert (made.code, made.json["records"], made.json["sagas"], made.json["parquet"]) == (0, 5, 1, True)
    seen = desk.examine(tmp_path / "e", "--witness", str(desk.folder / "witness.jsonl"), "--json")
    assert (seen.code, seen.json["unaltered"], seen.json["complete"], seen.json["rows"]) == (0, True, True, 5)
    plain = desk.examine(tmp_path / "e")
    assert plain.code == 0
    assert "unaltered  yes" in plain.out
    assert "complete   yes" in plain.out
    own = desk.run("verify", "--export", str(tmp_path / "e"), environment={})
    assert own.code == 0
    assert "the keys are the export's own" in " ".join(own.out.split())


def test_a_spoilt_export_ends_with_exit_1_and_is_printed_as_it_is(desk: Desk, tmp_path: Path) -> None:
    """Markup and control characters in what others have written reach no terminal."""
    desk.run("export", "--out", str(tmp_path / "e"))
    (tmp_path / "e" / "[bold]\x1b[31m[red]").touch()
    found = desk.examine(tmp_path / "e")
    assert found.code == 1
    assert "unaltered  NO" in found.out
    assert "complete   NO" in found.out
    assert "\x1b" not in found.out
    assert "[bold]" in found.out


def test_another_witness_contradicts_an_export(desk: Desk, tmp_path: Path) -> None:
    """A witness's checkpoint of the same size with another root, signed by the very key, is a rewritten past."""
    desk.run("export", "--out", str(tmp_path / "e"))
    seen = list(WitnessFile(desk.folder / "witness.jsonl").read())[-1]
    known = {desk.signer.verifier.id: desk.signer.verifier}
    forged = replace(Checkpoint.parse(open_note(seen.note, known)[0]), root=b"7" * 32)
    note = desk.signer.sign(forged.to_text())
    WitnessFile(tmp_path / "witness.jsonl").append([WitnessEntry(seen.origin, seen.size, note)])
    told = desk.examine(tmp_path / "e", "--witness", str(tmp_path / "witness.jsonl"), "--json")
    assert (told.code, told.json["unaltered"], told.json["complete"]) == (1, False, False)
    assert "has another root" in told.json["findings"][0]["what"]
    (tmp_path / "nonsense.jsonl").write_text("nonsense\n")
    spoilt = desk.examine(tmp_path / "e", "--witness", str(tmp_path / "nonsense.jsonl"), "--json")
    assert (spoilt.code, spoilt.error) == (2, "witness-invalid")
    absent = desk.examine(tmp_path / "e", "--witness", str(tmp_path / "absent.jsonl"), "--json")
    assert (absent.code, absent.error) == (3, "witness-missing")


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["--from", "yesterday"], 2, "bad-time"),
        (["--from", "2026-11-23T14:03:07+02:00"], 2, "bad-time"),
        (["--to", "2026-13-01"], 2, "bad-time"),
        (["--id", "0193a4c0"], 2, "bad-saga-id"),
        (["--saga", "nothing"], 3, "saga-unknown"),
        (["--account", "nobody"], 3, "nothing-found"),
        (["--sign-with", "no.key"], 3, "key-missing"),
    ],
)
def test_what_cannot_be_exported_is_told(
    desk: Desk, tmp_path: Path, arguments: list[str], code: int, error: str
) -> None:
    """And nothing is left behind."""
    ran = desk.run("export", "--out", str(tmp_path / "e"), *arguments, "--json")
    assert (ran.code, ran.error) == (code, error)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_verified_is_told(desk: Desk, tmp_path: Path) -> None:
    """No folder, no key, no key of ours."""
    (tmp_path / "some.txt").write_text("no key\n")
    missing = desk.examine(tmp_path / "nowhere", "--json")
    assert (missing.code, missing.error) == (3, "export-missing")
    nothing = desk.examine(tmp_path, "--json")
    assert (nothing.code, nothing.json["complete"]) == (1, False)
    wrong = desk.run("verify", "--export", str(tmp_path), "--key", str(tmp_path / "some.txt"), "--json", environment={})
    assert (wrong.code, wrong.error) == (2, "key-invalid")


def test_a_time_is_asked_for_as_people_write_it(desk: Desk, tmp_path: Path) -> None:
    """In UTC, by the day or to the nanosecond."""
    made = desk.run("export", "--out", str(tmp_path / "e"), "--from", "2026-09-21", "--to", "2026-09-21T14:13:20.129Z")
    assert made.code == 0
    lines = hands.read(tmp_path / "e", layout.EVENTS)
    assert {line["recorded_ms"] for line in lines} <= set(range(1_790_000_000_123, 1_790_000_000_130))
    assert desk.examine(tmp_path / "e").code == 0
