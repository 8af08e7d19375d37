"""Every package has newer releases by now, and pip is the oldest that Python 3.11 brings along."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.version import Version

from tests.architecture.sources import ROOT
from tests.installation.index import Index, newer, pins
from tests.installation.places import copied_project, environment, oldest_pip, run, site_packages
from tests.installation.wheels import normalized

pytestmark = pytest.mark.full
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-bench.lock")
PROJECT = "tradesaga"


@dataclass(frozen=True, slots=True)
class Day:
    """A later day: a clone whose locks name the wheels of an index, and pip configured for that index alone."""

    clone: Path
    pip: Path
    variables: dict[str, str]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """Build the index and serve it; the home folder is empty, and nothing but pip's configuration names the index."""
    folder = tmp_path_factory.mktemp("later-day")
    locks = {name: (ROOT / name).read_text(encoding="utf-8") for name in LOCKS}
    index = Index(folder / "index", locks)
    clone = copied_project(folder / "clone", {name: index.rewritten(lock) for name, lock in locks.items()})
    build(clone, "wheel", index.folder / PROJECT)
    (folder / "home").mkdir()
    config = folder / "pip.conf"
    with index.served() as url:
        config.write_text(f"[global]\nindex-url = {url}\n")
        variables = {"HOME": str(folder / "home"), "PIP_CONFIG_FILE": str(config)}
        yield Day(clone, oldest_pip(folder), variables)


def build(project: Path, target: str, folder: Path) -> Path:
    """Build a wheel or an sdist with the pinned build back end."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    return next(folder.glob("*.whl" if target == "wheel" else "*.tar.gz"))


def installed(venv: Path) -> dict[str, str]:
    """Return name and version of what an environment holds, pip left out."""
    names = [path.name.removesuffix(".dist-info").split("-") for path in site_packages(venv).glob("*.dist-info")]
    return {normalized(name): version for name, version in names if name != "pip"}


def pinned(lock: Path) -> dict[str, str]:
    """Return name and version of what a lock pins for this machine."""
    text = lock.read_text(encoding="utf-8")
    return {name: version for (name, version), marker in pins(text) if not marker or Marker(marker).evaluate()}


def test_pip_alone_refuses_the_lock(day: Day) -> None:
    """The index tempts the oldest pip into the fault that the other tests show to be avoided."""
    python = environment(day.clone / "alone", day.pip)
    command = (python, "-m", "pip", "install", "--dry-run", "--require-hashes", "-r", "requirements-dev.lock")

    refused = run(command, day.clone, day.variables)

    assert refused.returncode == 1
    assert "must have their versions pinned" in refused.stderr


@pytest.mark.timeout(300)
def test_make_installs_what_the_lock_pins(day: Day) -> None:
    """`make venv` on an empty machine: every package in its pinned version, and the project itself."""
    environment(day.clone / ".venv", day.pip)

    made = run(("make", "venv", f"PYTHON={sys.executable}"), day.clone, day.variables)

    assert made.returncode == 0, made.stderr
    found = installed(day.clone / ".venv")
    assert found.pop(PROJECT)
    assert found == pinned(day.clone / "requirements-dev.lock")
    peers = environment(day.clone / "peers")
    command = (day.clone / ".venv" / "bin" / "python", "infra/install/uv.py", "pip", "sync", "--require-hashes")
    synced = run((*command, "--python", peers, "requirements-bench.lock"), day.clone, day.variables)
    assert synced.returncode == 0, synced.stderr
    assert installed(day.clone / "peers") == pinned(day.clone / "requirements-bench.lock")


@pytest.mark.timeout(300)
def test_the_lock_of_a_deployment_installs_with_pip_alone(day: Day) -> None:
    """The command of docs/reference.md: the lock is complete, so pip need not resolve anything."""
    python = environment(day.clone / "deployed", day.pip)
    command = (python, "-m", "pip", "install", "--no-deps", "--require-hashes", "-r", "requirements.lock")

    made = run(command, day.clone, day.variables)

    assert made.returncode == 0, made.stderr
    assert installed(day.clone / "deployed") == pinned(day.clone / "requirements.lock")
    checked = run((python, "-m", "pip", "check"), day.clone, day.variables)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.timeout(300)
def test_a_users_install_takes_fixes_and_no_new_major_release(day: Day) -> None:
    """`pip install 'tradesaga[...]'` resolves, within the bounds that the wheel states."""
    venv = day.clone / "users"
    python = environment(venv, day.pip)
    extras = "parquet,stack,tracing,venues"

    made = run((python, "-m", "pip", "install", f"{PROJECT}[{extras}]"), day.clone, day.variables)

    assert made.returncode == 0, made.stderr
    found = installed(venv)
    for requirement, version in needed(python, day, extras.split(",")):
        allowed = requirement.specifier
        locked = pinned(day.clone / "requirements-dev.lock")[normalized(requirement.name)]
        fix, major = newer(locked)
        assert allowed.contains(version, prereleases=True), requirement
        assert not allowed.contains(major), f"{requirement} takes any release to come"
        assert version == (fix if allowed.contains(fix) else locked), requirement
        assert Version(found[normalized(requirement.name)]) == Version(version)


def needed(python: Path, day: Day, extras: Sequence[str]) -> list[tuple[Requirement, str]]:
    """Return what the installed wheel requires with these extras, with the version that was installed."""
    program = "import json; from importlib.metadata import requires; print(json.dumps(requires('tradesaga')))"
    told = run((python, "-c", program), day.clone, day.variables)
    found = installed(python.parent.parent)
    requirements = [Requirement(text) for text in json.loads(told.stdout)]
    return [
        (each, found[normalized(each.name)])
        for each in requirements
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ["", *extras])
    ]


def test_the_makefile_installs_in_no_other_way() -> None:
    """No target lets pip resolve a lock: what the other tests install with is what `make` runs."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert "pip install" not in text.replace("$(UV) pip install", "")
