"""The file of request keys: made once, whole or not at all, and kept through rotations."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tradesaga.infra.cli.entry import execute
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.starts.request_keys import ensure_request_keys, read_request_keys, rotate_request_keys


def test_the_first_caller_makes_the_key_and_the_others_find_it(tmp_path: Path) -> None:
    """Many services at once end up with one key, and no file is left beside it."""
    path = tmp_path / "new" / "request.keys"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(ensure_request_keys, [path] * 40))

    assert made.count(True) == 1
    assert len(read_request_keys(path).keys) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_rotation_puts_a_new_key_before_the_old_ones(tmp_path: Path) -> None:
    """What the old ones have hashed is compared by them for ever."""
    path = tmp_path / "request.keys"
    ensure_request_keys(path)
    first = read_request_keys(path).keys
    rotated = rotate_request_keys(path).keys

    assert rotated[1:] == first
    assert rotated[0] not in first
    assert read_request_keys(path).keys == rotated
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not ensure_request_keys(path)
    assert list(tmp_path.iterdir()) == [path]


def test_missing_keys_name_the_command_that_makes_them(tmp_path: Path) -> None:
    """Exit 3, and the setting for those that lie elsewhere."""
    with pytest.raises(CommandError, match=r"tradesaga migrate.*TRADESAGA_REQUEST_KEYS") as caught:
        read_request_keys(tmp_path / "request.keys")
    assert caught.value.exit_code is ExitCode.NOT_FOUND


def damaged(good: str) -> list[str]:
    """Return what may be found in place of a good file."""
    line = good.splitlines()[-1]
    flipped = line[:-1] + ("0" if line[-1] != "0" else "1")
    return ["", "# only a comment\n", line[:-2], flipped, line.replace("hmac-sha256", "md5"), "\xff", good + "x\n"]


def test_a_damaged_file_is_refused_and_never_replaced(tmp_path: Path) -> None:
    """A key that was changed by a bit would call every repeated start another request."""
    path = tmp_path / "request.keys"
    ensure_request_keys(path)
    good = path.read_text()
    for text in damaged(good):
        path.write_text(text, encoding="latin-1")
        for act in (read_request_keys, ensure_request_keys, rotate_request_keys):
            with pytest.raises(CommandError, match="restore it") as caught:
                act(path)
            assert caught.value.exit_code is ExitCode.USAGE
            assert good.split(":")[-1].strip() not in str(caught.value)
        assert path.read_text(encoding="latin-1") == text


def test_keys_are_listed_and_rotated_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ids alone are shown, the current one first."""
    path = tmp_path / "elsewhere.keys"
    ensure_request_keys(path)
    monkeypatch.setenv("TRADESAGA_REQUEST_KEYS", str(path))
    (old,) = read_request_keys(path).keys

    assert execute(["keys", "rotate", "--json"]) == ExitCode.FINE
    told = json.loads(capsys.readouterr().out)
    assert told["keys"] == [told["current"], old.id]
    assert execute(["keys", "list"]) == ExitCode.FINE
    shown = capsys.readouterr().out
    assert shown == f"{told['current']}  current\n{old.id}\n"
