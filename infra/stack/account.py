"""The unprivileged account that PostgreSQL insists on when the stack is started by root."""

import hashlib
import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path

from infra.errors import CommandError, ExitCode

NOBODY = 65534


def server_account() -> int | None:
    """Give the user id to run PostgreSQL under, or None when the present user will do."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        return NOBODY


def is_reachable(path: Path, account: int | None) -> bool:
    """Tell whether the account may enter every folder on the way to `path` and read it."""
    if account is None:
        return True
    folders = [*path.resolve().parents]
    return all(_may(folder, account, stat.S_IXUSR, stat.S_IXOTH) for folder in folders) and _may(
        path.resolve(), account, stat.S_IRUSR, stat.S_IROTH
    )


def data_folder(home: Path, account: int | None) -> Path:
    """Choose PostgreSQL's data folder: inside the stack's, or beside others under the system's when out of reach."""
    inside = home.resolve() / "postgres"
    if is_reachable(home, account):
        return inside
    return outside_folder() / _short_key(home) / "postgres"


def outside_folder() -> Path:
    """Make the folder under the system's temporary one that other accounts can reach; it must be our own."""
    folder = Path(tempfile.gettempdir()).resolve() / "tradesaga-postgres"
    folder.mkdir(mode=0o711, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        do = "remove it, or set TMPDIR to a folder that only you may write to"
        raise CommandError("folder-foreign", "the folder belongs to somebody else", str(folder), do, ExitCode.REFUSED)
    return folder


def make_owned(folder: Path, account: int | None) -> None:
    """Create the folder, closed to everybody but the account; folders made on the way can only be passed through."""
    for parent in reversed(folder.parents):
        if not parent.exists():
            parent.mkdir(mode=0o711)
    folder.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(folder, account, account)


def within_reach(programs: Path, account: int | None) -> Path:
    """Give PostgreSQL's installation folder, or a copy of it that the account can reach."""
    if is_reachable(programs / "bin" / "postgres", account):
        return programs
    copy = outside_folder() / f"programs-{_short_key(programs)}"
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(dir=copy.parent))
        shutil.copytree(programs, draft, dirs_exist_ok=True)
        draft.chmod(0o755)
        draft.replace(copy)
    return copy


def _short_key(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]


def _may(path: Path, account: int, owner: int, other: int) -> bool:
    info = path.stat()
    return bool(info.st_mode & (owner if info.st_uid == account else other))
