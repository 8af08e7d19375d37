"""Places to install to: copies of the project, and environments with the oldest pip or with given packages alone."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.architecture.sources import ROOT, tracked

OLDEST_PIP = Path(__file__).with_name("oldest-pip.lock")


def copied_project(folder: Path, texts: Mapping[str, str]) -> Path:
    """Copy what a clone holds, without its tests and documents, and with some files' texts replaced."""
    for path in tracked():
        name = path.relative_to(ROOT)
        if name.parts[0] not in {"tests", "docs"}:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    for link in (path for path in (ROOT / "tradesaga").iterdir() if path.is_symlink()):
        (folder / "tradesaga" / link.name).symlink_to(link.readlink())
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def oldest_pip(folder: Path) -> Path:
    """Fetch the wheel of the oldest pip that a supported Python bundles, from wherever this machine gets packages."""
    command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes")
    subprocess.run([*command, "-d", str(folder), "-r", str(OLDEST_PIP)], check=True)
    return next(folder.glob("pip-*.whl"))


def environment(folder: Path, pip: Path | None = None) -> Path:
    """Make an environment with this pip, or without one, and return its Python."""
    venv.create(folder, symlinks=True)
    if pip is not None:
        with zipfile.ZipFile(pip) as archive:
            archive.extractall(site_packages(folder))
    return folder / "bin" / "python"


def site_packages(folder: Path) -> Path:
    """Return where an environment keeps its packages."""
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def run(command: Sequence[str | Path], cwd: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command that sees these variables and the search path alone."""
    shown = {"PATH": os.environ["PATH"], **variables}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=shown, capture_output=True, text=True, check=False)
