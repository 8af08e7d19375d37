"""The commands of retention and of legal holds, as an operator runs them."""

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncpg
import pytest
import pytest_asyncio

from tests.integration.consumers.audit.retention.rig import RetentionRig, named
from tradesaga.infra.audit_log.note import public_path
from tradesaga.infra.cli.entry import execute

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]


class Desk:
    """Runs commands where the audit log, its key and its witness are."""

    def __init__(self, rig: RetentionRig, url: str) -> None:
        self.rig = rig
        key = rig.folder / "audit.key"
        key.write_text(rig.signer.secret())
        public_path(key).write_text(f"{rig.signer.verifier}\n")
        self.environment = {
            "TRADESAGA_DATABASE_URL": url,
            "TRADESAGA_AUDIT_KEY": str(key),
            "TRADESAGA_AUDIT_WITNESS": str(rig.folder / "witness.jsonl"),
            "TRADESAGA_AUDIT_LOG_ID": "test",
            "TRADESAGA_AUDIT_RETENTION": "5y",
            "COLUMNS": "250",
        }

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run `tradesaga audit` with these arguments: exit code, stdout, stderr."""
        return await asyncio.to_thread(self._execute, ["audit", *arguments])

    async def json(self, *arguments: str) -> Any:
        """Run it with --json, which goes well, and give what it prints."""
        code, out, err = await self.run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    async def refused(self, *arguments: str) -> tuple[int, str]:
        """Run it with --json, which fails: exit code and the error's own."""
        code, out, err = await self.run(*arguments, "--json")
        assert out == ""
        return code, json.loads(err.splitlines()[-1])["error"]["code"]

    def _execute(self, arguments: list[str]) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with patch.dict(os.environ, self.environment), redirect_stdout(out), redirect_stderr(err):
            code = execute(arguments)
        return code, out.getvalue(), err.getvalue()


@pytest_asyncio.fixture
async def desk(database_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    """Give a desk whose audit log has records in January and February of 2019."""
    sql = await asyncpg.connect(database_url, server_settings={"timezone": "UTC"})
    rig = RetentionRig(sql, tmp_path)
    await rig.make_months()
    for month in (1, 2):
        await rig.month(month, sagas=6)
    yield Desk(rig, database_url)
    await sql.close()


async def test_a_month_from_its_survey_to_its_drop(desk: Desk, tmp_path: Path) -> None:
    """It is due, it is exported, retired and dropped, and the verification tells all of that."""
    shown = {part["partition"]: part for part in (await desk.json("retention"))["partitions"]}
    january = shown[named(1)]
    assert (january["records"], january["may_be_retired"], january["kept_until"]) == (30, True, "2024-02-01T00:00:00Z")
    assert shown[named(2)]["why_not"][0].startswith(f"{named(1)} holds older records")
    await desk.json("export", "--out", str(tmp_path / "export"), "--to", "2019-02-01T00:00:00Z")
    retired = await desk.json("retire", "--reason", "five years have passed", "--operator", "ann")
    assert (retired["partitions"], retired["records"]) == ([named(1)], 30)
    waiting = (await desk.json("retention"))["retired_not_dropped"]
    assert [(each["partition"], each["operator"]) for each in waiting] == [(named(1), "ann")]
    code, out, _ = await desk.run("retention")
    assert (code, f"{waiting[0]['table']} is retired" in out) == (0, True)
    dropping = ("retire", "--drop", "--partition", named(1), "--reason", "no court asks")
    dropped = await desk.json(*dropping, "--export", str(tmp_path / "export"))
    assert (dropped["records"], dropped["export"]) == (30, str(tmp_path / "export"))
    report = await desk.json("verify")
    assert (report["unaltered"], report["complete"], report["rows"]) == (True, True, 30)
    assert [(each["operator"], each["records"]) for each in report["retired"]] == [("ann", 30)]
    code, out, _ = await desk.run("verify")
    assert code == 0
    assert "30 records retired on" in out
    assert "by ann: five years have passed; complete from offset" in out


async def test_an_export_that_proves_too_little_is_no_evidence(desk: Desk, tmp_path: Path) -> None:
    """Of some sagas, of another span, altered, or not there: nothing is dropped; without one only expressly."""
    sagas = await desk.rig.sql.fetch("SELECT saga_id FROM saga LIMIT 1")
    exports = {"one": ["--id", str(sagas[0]["saga_id"])], "late": ["--from", "2019-02-01T00:00:00Z"], "bad": []}
    for name, query in exports.items():
        await desk.json("export", "--out", str(tmp_path / name), *query)
    events = tmp_path / "bad" / "events.jsonl"
    altered = events.read_bytes().replace(b"EUR/USD", b"EUR/CHF", 1)
    assert events.write_bytes(altered) == len(altered)
    assert b"EUR/CHF" in altered
    await desk.json("retire", "--reason", "five years have passed")
    dropping = ("retire", "--drop", "--partition", named(1), "--reason", "no court asks")
    for name in ("one", "late", "bad"):
        code, error = await desk.refused(*dropping, "--export", str(tmp_path / name))
        assert (code, error) == (4, "export-incomplete" if name == "late" else "export-refused")
    code, error = await desk.refused(*dropping, "--export", str(tmp_path / "nowhere"))
    assert code == 3
    assert (await desk.refused(*dropping))[0] == 2
    assert (await desk.refused(*dropping, "--without-export", "--export", "x"))[0] == 2
    assert (await desk.refused("retire", "--reason", "r", "--without-export"))[0] == 2
    assert (await desk.json(*dropping, "--without-export"))["export"] is None


async def test_holds_are_set_listed_and_released(desk: Desk) -> None:
    """Each with who and why; what was released is still told with --all."""
    reason = ("--reason", "case 7/2026", "--operator", "eve")
    first = await desk.json("hold", "add", "account", "A", *reason)
    second = await desk.json("hold", "add", "time", "2019-02-01T00:00:00Z", "2019-03-01T00:00+01:00", *reason)
    assert (first["hold"], second["hold"]) == (0, 1)
    listed = await desk.json("hold", "list")
    assert [(each["scope"], each["key"], each["until"]) for each in listed] == [
        ("account", "A", None),
        ("time", "2019-02-01T00:00:00+00:00", "2019-02-28T23:00:00+00:00"),
    ]
    assert {(each["operator"], each["reason"]) for each in listed} == {("eve", "case 7/2026")}
    assert await desk.refused("retire", "--partition", named(1), "--reason", "r") == (4, "not-retired")
    await desk.json("hold", "release", "0", "--reason", "settled")
    assert await desk.refused("hold", "release", "0", "--reason", "settled") == (4, "hold-released")
    assert [each["hold"] for each in await desk.json("hold", "list")] == [1]
    code, out, _ = await desk.run("hold", "list", "--all")
    assert (code, "settled" in out) == (0, True)
    await desk.json("retire", "--partition", named(1), "--reason", "r")
    assert await desk.refused("retire", "--partition", named(2), "--reason", "r") == (4, "not-retired")


SAGA = "00000000-0000-4000-8000-000000000000"
WRONG: list[tuple[list[str], int]] = [
    (["hold", "add", "time", "2019-02-01T00:00:00Z", "--reason", "r"], 2),
    (["hold", "add", "time", "2019-02-02T00:00:00Z", "2019-02-01T00:00:00Z", "--reason", "r"], 2),
    (["hold", "add", "time", "yesterday", "today", "--reason", "r"], 2),
    (["hold", "add", "saga", "abc", "--reason", "r"], 2),
    (["hold", "add", "saga", SAGA, "2019-02-01T00:00:00Z", "--reason", "r"], 2),
    (["hold", "add", "account", " ", "--reason", "r"], 2),
    (["hold", "add", "account", "A", "--reason", " "], 2),
    (["hold", "release", "7", "--reason", "r"], 3),
    (["retire", "--partition", "saga_event_20180101", "--reason", "r"], 3),
    (["retire", "--drop", "--partition", named(1), "--without-export", "--reason", "r"], 3),
]


@pytest.mark.parametrize(("arguments", "exit_code"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
async def test_what_is_asked_wrongly_changes_nothing(desk: Desk, arguments: list[str], exit_code: int) -> None:
    """And says so by its exit code."""
    assert (await desk.refused(*arguments))[0] == exit_code
    assert await desk.json("hold", "list", "--all") == []


async def test_a_schedule_that_is_none_is_refused_at_the_start(desk: Desk) -> None:
    """Before anything is read."""
    desk.environment["TRADESAGA_AUDIT_RETENTION"] = "seven years"
    assert await desk.refused("retention") == (2, "settings-invalid")


async def test_a_hold_that_was_taken_away_is_told(desk: Desk) -> None:
    """Exit 1, whoever asks for the holds, or for what may be retired."""
    await desk.json("hold", "add", "account", "A", "--reason", "case 7")
    await desk.rig.attack("DELETE FROM audit_action")
    for arguments in (("hold", "list"), ("retention",)):
        assert await desk.refused(*arguments) == (1, "actions-altered")
