"""The witness's file: what a crash has cut off is passed over, and a start reads the end of it, not a year."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tradesaga.infra.audit_log import witness
from tradesaga.infra.audit_log.witness import WitnessEntry, WitnessError, WitnessFile

ORIGINS = ("desk/trade.events/0", "desk/trade.events/1", "desk/trade.events/2")


def seen(count: int, start: int = 1) -> Iterator[WitnessEntry]:
    """Give checkpoints of three logs in turn; the second one's stop early."""
    for size in range(start, start + count):
        for origin in ORIGINS if size < 5 else (ORIGINS[0], ORIGINS[2]):
            yield WitnessEntry(origin, size, f"note {size}")


@pytest.fixture
def file(tmp_path: Path) -> WitnessFile:
    """Give a witness that has nothing."""
    return WitnessFile(tmp_path / "witness.jsonl")


def test_what_is_written_is_read(file: WitnessFile) -> None:
    """In order, with the body where one is kept; a file that is not there has nothing."""
    assert list(file.read()) == []
    assert file.last() == {}
    told = [*seen(3), WitnessEntry("desk/audit.actions/0", 1, "note", '{"kind":"hold"}')]
    file.append(told[:4])
    file.append(told[4:])
    assert list(file.read()) == told


def test_a_line_that_was_cut_off_is_ended_by_the_next(tmp_path: Path, file: WitnessFile) -> None:
    """Whoever died in the middle of a line spoils neither what was there nor what comes."""
    file.append(seen(2))
    path = tmp_path / "witness.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + WitnessEntry(ORIGINS[0], 3, "lost").to_line()[:20])
    assert list(file.read()) == list(seen(2))
    file.append(seen(1, 3))
    assert list(file.read()) == list(seen(3))
    assert file.last()[ORIGINS[0]].size == 3
    assert path.read_bytes().startswith(whole)


def test_the_last_of_each_log_is_found_by_the_end_of_the_file(
    tmp_path: Path, file: WitnessFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index says where to begin; a log that has long been silent is not forgotten."""
    monkeypatch.setattr(witness, "SAVE_EVERY", 1000)
    path = tmp_path / "witness.jsonl"
    file.append(seen(2000))
    expected = {each.origin: each for each in seen(2000)}
    assert file.last() == expected
    file.append(seen(1, 2001))
    read: list[int] = []
    lines = WitnessFile._lines  # pyright: ignore[reportPrivateUsage]

    def counted(self: WitnessFile, start: int) -> Iterator[tuple[int, bytes]]:
        for position, line in lines(self, start):
            read.append(position)
            yield position, line

    monkeypatch.setattr(WitnessFile, "_lines", counted)
    assert {origin: each.size for origin, each in file.last().items()} == dict(
        zip(ORIGINS, (2001, 4, 2001), strict=True)
    )
    assert len(read) == len(ORIGINS) + 2
    path.with_name("witness.jsonl.index").unlink()
    assert file.last()[ORIGINS[1]].size == 4


@pytest.mark.parametrize("index", [b"", b"[]", b'{"read":1}', b'{"read":7,"last":{}}', b'{"read":99999999,"last":{}}'])
def test_an_index_that_does_not_fit_is_no_hindrance(tmp_path: Path, file: WitnessFile, index: bytes) -> None:
    """The file itself is read then."""
    file.append(seen(9))
    (tmp_path / "witness.jsonl.index").write_bytes(index)
    assert file.last() == {each.origin: each for each in seen(9)}


def test_an_index_of_another_file_is_no_hindrance(
    tmp_path: Path, file: WitnessFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it names places at which other logs' checkpoints are, or none."""
    monkeypatch.setattr(witness, "SAVE_EVERY", 1)
    file.append(seen(9))
    file.last()
    path = tmp_path / "witness.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[::-1]))
    assert file.last() == {each.origin: each for each in list(seen(9))[::-1]}


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b"hello\n", b'{"origin":"x","size":"many","note":""}\n'])
def test_what_is_no_checkpoint_is_an_error(tmp_path: Path, file: WitnessFile, line: bytes) -> None:
    """Named by its place."""
    file.append(seen(1))
    path = tmp_path / "witness.jsonl"
    place = path.stat().st_size
    path.write_bytes(path.read_bytes() + line)
    for read in (lambda: list(file.read()), file.last):
        with pytest.raises(WitnessError, match=f"the line at byte {place} is not a checkpoint"):
            read()


def test_a_witness_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """Its folder is not there."""
    with pytest.raises(WitnessError, match="No such file"):
        WitnessFile(tmp_path / "nowhere" / "witness.jsonl").append(seen(1))
