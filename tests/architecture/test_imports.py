"""Who may know whom, and that importing does nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, ROOT, imported, named, python_files, shipped_files

SILENT = """
import importlib, socket, sys, threading

def refuse(*_, **__):
    raise AssertionError("a connection is opened on import")

socket.socket.connect = refuse
before = threading.active_count()
for name in sys.argv[1:]:
    importlib.import_module(name)
assert threading.active_count() == before, "a thread is started on import"
twice = {"schemas", "sagas", "infra", "producers", "consumers"} & sys.modules.keys()
assert not twice, f"a second copy, beside tradesaga's: {twice}"
"""


def test_imports_go_one_way() -> None:
    """Consumers and producers above infra above sagas above schemas; the pure ones import nothing that does I/O."""
    lint = Path(sys.executable).parent / "lint-imports"
    run = subprocess.run([str(lint)], cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout


@pytest.mark.timeout(180)
def test_importing_does_nothing() -> None:
    """Each shipped module can be imported without output, threads or connections."""
    names = [
        ".".join(("tradesaga", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for path in shipped_files()
        if path.name != "__main__.py" and "migrations" not in path.parts
    ]

    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SILENT, *names], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert {name.split(".")[1] for name in names} == set(PACKAGES)


def test_services_load_no_migrations() -> None:
    """Alembic and SQLAlchemy are half of what a process would import, at each start of each service."""
    program = (
        "import sys; from importlib.metadata import entry_points;"
        "[__import__(each.module) for each in entry_points(group='tradesaga.services')];"
        "print(*{'alembic', 'sqlalchemy'} & sys.modules.keys())"
    )

    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == ""


def test_everything_is_imported_below_one_name() -> None:
    """An import without `tradesaga.` would load a second copy of each class, and register each metric twice."""
    wrong = [
        f"{named(path)}: {module}"
        for path in python_files()
        for module in imported(path)
        if module.partition(".")[0] in PACKAGES
    ]

    assert wrong == []


def test_the_pure_packages_have_no_clock_and_no_chance() -> None:
    """Definitions and contracts take time and chance as arguments; only a test kit draws, from a given seed."""
    forbidden = (
        "import time\n",
        "from time ",
        "datetime.now",
        "import random",
        "import secrets",
        "uuid4",
        "os.environ",
    )
    pure = [path for path in shipped_files() if path.relative_to(ROOT).parts[0] in {"schemas", "sagas"}]
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in pure
        for word in forbidden
        if word in path.read_text(encoding="utf-8")
    ]

    assert found == ["sagas/testing/scenario.py: import random"]
