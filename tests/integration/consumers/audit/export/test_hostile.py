"""Exports spoilt by hostile hands: each is named, none crashes the verification, none is called complete."""

import asyncio
import random
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.integration.consumers.audit.export import hands
from tests.integration.consumers.audit.export.hands import Hand, sign_again
from tests.integration.consumers.audit.export.rig import ExportRig
from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.manifest import Query
from tradesaga.consumers.audit.export.verify import Keys, verify_export
from tradesaga.consumers.audit.log.log_check import Report, Verdict
from tradesaga.infra.audit_log.note import Signer

pytestmark = pytest.mark.stack


class Exports:
    """A whole export, one of an account, and the keys."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self.rig: ExportRig
        asyncio.run(self._make(url))

    async def _make(self, url: str) -> None:
        async with ExportRig.open(url, self.folder) as rig:
            self.rig = rig
            await rig.export("whole")
            await rig.record(9)
            await rig.export("account", Query(account="B"))

    def copy(self, name: str, path: Path) -> Path:
        """Give a copy that may be spoilt."""
        return Path(shutil.copytree(self.folder / name, path / name))

    def verify(self, path: Path) -> Report:
        """Verify with the trusted keys."""
        return verify_export(path, self.rig.keys, [], lambda _, __: None)


@pytest.fixture(scope="module")
def exports(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Make the exports once."""
    return Exports(module_database_url, tmp_path_factory.mktemp("exports"))


def red(report: Report, named: str) -> None:
    """Check that a report says what is wrong, and promises nothing."""
    assert not report.holds(Verdict.INCOMPLETE)
    assert any(named in f"{finding.where}: {finding.what}" for finding in report.findings), report.findings


SPOILT: list[tuple[Hand, str]] = [
    (hands.flip_a_byte, "events.jsonl: it is not the file"),
    (hands.remove_a_row, "comes where"),
    (hands.remove_a_row_and_close_the_gap, "records were sealed"),
    (hands.remove_a_saga, "records were sealed"),
    (hands.leave_a_saga_out, "not one of its records is here"),
    (hands.cut_the_tail, "the manifest knows"),
    (hands.swap_two_rows, "not those that were sealed"),
    (hands.reorder_two_rows, "comes where"),
    (hands.repeat_a_line, "events.jsonl line 5"),
    (hands.back_date, "not those that were sealed"),
    (hands.tell_another_state, "columns do not say"),
    (hands.cut_a_file, "bytes of"),
    (hands.empty_the_events, "is here"),
    (hands.forge_a_proof, "left out"),
    (hands.name_another_partition, "of no log of the manifest"),
    (hands.no_utf8, "not JSON"),
    (hands.deep_json, "events.jsonl line 1"),
    (hands.deep_headers, "columns do not say"),
    (hands.absurd_numbers, "as exports write them"),
    (hands.negative_numbers, "out of its range"),
    (hands.wrong_members, "events.jsonl line 1: the line is not a JSON object"),
    (hands.repeated_members, "repeated members"),
    (hands.remove_a_file, "sagas.jsonl cannot be read"),
    (hands.link_a_file, "events.jsonl cannot be read"),
    (hands.pipe_for_a_file, "sagas.jsonl is not a regular file"),
    (hands.folder_for_a_file, "proofs.jsonl is not a regular file"),
    (hands.link_a_folder, "schemas is not a folder"),
    (hands.add_a_file, "the manifest does not know it"),
    (hands.no_checkpoints, "the checkpoint of its"),
    (hands.hollow_file, "longer than"),
    (partial(hands.edit_manifest, records=59), "not the one that was signed"),
    (partial(hands.edit_manifest, log_id="elsewhere"), "not a log of installation elsewhere"),
    (partial(hands.edit_manifest, logs=()), "of no log of the manifest"),
    (hands.no_manifest, "manifest.json cannot be read"),
    (hands.nonsense_manifest, "manifest.json"),
    (hands.huge_manifest, "longer than"),
    (hands.strange_signature, "a signature line is not base64"),
    (hands.no_signature, "manifest.note cannot be read"),
    (partial(hands.rename_a_file, name="../../../etc/passwd"), "not a valid file name"),
    (partial(hands.rename_a_file, name="/etc/passwd"), "not a valid file name"),
    (partial(hands.rename_a_file, name="schemas/../../x"), "not a valid file name"),
    (partial(hands.rename_a_file, name="a\0b"), "not a valid file name"),
    (partial(hands.rename_a_file, name="nothing.here"), "nothing.here cannot be read"),
]


def told(case: object) -> str:
    """Name a case."""
    if isinstance(case, partial):
        return f"{case.func.__name__}-{next(iter(case.keywords))}"
    return getattr(case, "__name__", "")


@pytest.mark.parametrize(("hand", "named"), SPOILT, ids=told)
def test_a_spoilt_export_is_named(exports: Exports, tmp_path: Path, hand: Hand, named: str) -> None:
    """By one who has no key."""
    path = exports.copy("whole", tmp_path)
    hand(path)
    red(exports.verify(path), named)


SEALED: list[tuple[Hand, str]] = [
    (hands.flip_a_byte, "not those that were sealed"),
    (hands.remove_a_row, "comes where"),
    (hands.remove_a_row_and_close_the_gap, "records were sealed"),
    (hands.remove_a_saga, "records were sealed"),
    (hands.cut_the_tail, "records were sealed"),
    (hands.swap_two_rows, "not those that were sealed"),
    (hands.repeat_a_line, "events.jsonl line 5"),
    (hands.back_date, "not those that were sealed"),
    (hands.forge_a_proof, "left out"),
    (hands.no_checkpoints, "the checkpoint of its"),
]


@pytest.mark.parametrize(("hand", "named"), SEALED, ids=told)
def test_one_who_signs_exports_cannot_forge_seals(exports: Exports, tmp_path: Path, hand: Hand, named: str) -> None:
    """The manifest made to fit and signed with the export's own key: the sealer's checkpoints are still there."""
    path = exports.copy("whole", tmp_path)
    hand(path)
    sign_again(path, exports.rig.exporter)
    report = exports.verify(path)
    red(report, named)
    assert not any(finding.where.startswith("manifest") and "signed" in finding.what for finding in report.findings)


def test_a_key_that_signs_exports_seals_nothing(exports: Exports, tmp_path: Path) -> None:
    """Who has it builds the whole log anew, checkpoints included: they are not believed, and the same by the sealer."""
    for signer, believed in ((exports.rig.exporter, False), (exports.rig.log.signer, True)):
        path = exports.copy("whole", tmp_path / signer.name.replace("/", "-"))
        hands.remove_a_saga(path)
        hands.seal_again(path, signer)
        report = exports.verify(path)
        assert report.holds(Verdict.INCOMPLETE) == believed
        assert any("no known key" in finding.what for finding in report.findings) != believed


@pytest.mark.parametrize(
    "hand",
    [hands.flip_a_byte, hands.remove_a_row, hands.leave_a_saga_out, hands.cut_the_tail, hands.repeat_a_line],
    ids=told,
)
def test_an_export_of_some_sagas_cannot_be_spoilt_either(exports: Exports, tmp_path: Path, hand: Hand) -> None:
    """Whether the manifest is made to fit or not."""
    path = exports.copy("account", tmp_path)
    hand(path)
    assert not exports.verify(path).holds(Verdict.INCOMPLETE)
    sign_again(path, exports.rig.exporter)
    assert not exports.verify(path).holds(Verdict.INCOMPLETE)


@pytest.mark.parametrize("name", [layout.EVENTS, layout.SAGAS, layout.CHECKPOINTS, layout.MANIFEST, layout.SIGNATURE])
def test_two_exports_are_not_mixed(exports: Exports, tmp_path: Path, name: str) -> None:
    """A file of one in the place of the other's."""
    path = exports.copy("whole", tmp_path)
    shutil.copy(exports.folder / "account" / name, path / name)
    assert not exports.verify(path).holds(Verdict.INCOMPLETE)
    assert not exports.verify(path).holds(Verdict.ALTERED)


def test_a_key_of_the_same_name_is_another_key(exports: Exports, tmp_path: Path) -> None:
    """An attacker signs everything anew, and lays his key beside it: only who believes the folder is deceived."""
    path = exports.copy("whole", tmp_path)
    mine = Signer.generate(exports.rig.exporter.name)
    (path / layout.KEYS).write_text(f"{mine.verifier}\n{exports.rig.log.signer.verifier}\n")
    sign_again(path, mine, export_key=str(mine.verifier))
    red(exports.verify(path), "no known key has signed")
    believing = verify_export(path, None, [], lambda _, __: None)
    assert believing.findings == []
    assert "the keys are the export's own" in believing.remarks[0]


def test_with_wrong_keys_nothing_is_believed(exports: Exports) -> None:
    """Neither the manifest nor a single checkpoint."""
    stranger = Signer.generate("tradesaga").verifier
    report = verify_export(exports.folder / "whole", Keys({stranger.id: stranger}, {}), [], lambda _, __: None)
    red(report, "manifest.note: no known key")
    assert any("is invalid" in finding.what for finding in report.findings)


def test_the_folders_keys_may_be_nonsense(exports: Exports, tmp_path: Path) -> None:
    """They are told to be none."""
    path = exports.copy("whole", tmp_path)
    (path / layout.KEYS).write_bytes(b"\xffkey\n")
    red(verify_export(path, None, [], lambda _, __: None), layout.KEYS)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_changed_at_random_is_noticed(exports: Exports, tmp_path: Path, seed: int) -> None:
    """Bytes flipped, cut out, put in, repeated: in any file, at any place, forty times each."""
    chance = random.Random(seed)
    path = exports.copy("whole" if seed % 2 else "account", tmp_path)
    files = sorted(each for each in path.rglob("*") if each.is_file() and each.stat().st_size)
    for _ in range(40):
        file = chance.choice(files)
        before = file.read_bytes()
        at, length = chance.randrange(len(before)), chance.choice((1, 1, 7, 500))
        piece = before[at : at + length]
        others = (b"", piece * 2, chance.randbytes(length), bytes(byte ^ 1 << chance.randrange(8) for byte in piece))
        after = before[:at] + chance.choice(others) + before[at + length :]
        if after != before:
            file.write_bytes(after)
            report = exports.verify(path)
            assert not report.holds(Verdict.INCOMPLETE), (file.name, at, length)
            file.write_bytes(before)
    assert exports.verify(path).findings == []
