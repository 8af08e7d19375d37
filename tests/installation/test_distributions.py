"""What users get: a wheel, an sdist, an editable clone, and the extras that each command needs."""

import ast
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution, entry_points
from pathlib import Path
from typing import Any, cast

import pytest
import typer
from packaging.requirements import Requirement

from tests.architecture.sources import PACKAGES, ROOT, parsed, shipped_files
from tests.installation.places import copied_project, environment, run, site_packages
from tests.installation.test_later_day import build
from tests.installation.wheels import normalized
from tradesaga.infra.cli.entry import assemble

NEEDS_STACK = "run `pip install 'tradesaga[stack]'`"
EVERY_HELP = """
import contextlib, io, json, sys
from tradesaga.infra.cli.entry import execute
told = {}
for name in sys.argv[1:]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = execute([name, "--help"])
    told[name] = (code, err.getvalue())
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from what a clone holds."""
    folder = tmp_path_factory.mktemp("wheel")
    return build(copied_project(folder / "clone", {}), "wheel", folder)


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel with what it requires and no extra; returns the folder of the environment's programs."""
    venv = tmp_path_factory.mktemp("bare")
    environment(venv)
    for each in required("tradesaga"):
        link(each, site_packages(venv))
    install(venv, wheel)
    return venv / "bin"


def required(package: str) -> list[Distribution]:
    """List the installed packages that another needs without extras of its own, directly or not."""
    seen: set[tuple[str, str]] = set()
    waiting = [(package, "")]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in map(Requirement, distribution(name).requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(normalized(requirement.name), each) for each in ("", *requirement.extras)]
    return [distribution(name) for name in sorted({name for name, _ in seen} - {package})]


def link(package: Distribution, folder: Path) -> None:
    """Put an installed package into another environment, file by file."""
    for file in package.files or []:
        if file.parts[0] != ".." and "__pycache__" not in file.parts:
            place = folder / str(file)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(str(file.locate()))


def install(venv: Path, package: Path) -> None:
    """Install a wheel alone, with no index."""
    command = [sys.executable, "-m", "pip", f"--python={venv}", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(package)], check=True)


def test_the_bare_wheel_names_the_extra_that_a_command_needs(bare: Path, tmp_path: Path) -> None:
    """Each command shows its help or ends in one line with the extra to install; the whole help needs one line too."""
    commands = cast("Any", typer.main.get_command(assemble())).commands

    told = run((bare / "python", "-c", EVERY_HELP, *commands), tmp_path, {})

    ends: dict[str, tuple[int, str]] = json.loads(told.stdout)
    lacking = {name: error for name, (code, error) in ends.items() if code}
    assert {"up", "down", "reconcile"} <= lacking.keys()
    assert {"account", "audit", "start", "list", "watch", "grant", "retry"} <= ends.keys() - lacking.keys()
    assert [error for code, error in ends.values() if not code and error] == []
    for error in lacking.values():
        assert error.count("\n") == 1, error
        assert re.search(r"run `pip install 'tradesaga\[(stack|venues)\]'`$", error), error
    assert ends["up"][0] == 3
    assert NEEDS_STACK in ends["up"][1]
    whole = run((bare / "tradesaga", "--help"), tmp_path, {})
    assert whole.returncode == 0
    assert whole.stderr.count("\n") <= 2, whole.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [("up -d", "stack"), ("venue --port 0", "stack"), ("demo", "stack"), ("run execution", "venues"),
     ("run venue-feed", "venues")],
)  # fmt: skip
def test_a_missing_extra_is_one_line(bare: Path, tmp_path: Path, command: str, extra: str) -> None:
    """Run for real: no stack trace, no list, one line with what to install."""
    ended = run((bare / "tradesaga", *command.split()), tmp_path, {"TRADESAGA_VENUE_URL": "http://127.0.0.1:9"})

    errors = [line for line in ended.stderr.splitlines() if line.startswith("tradesaga:")]
    assert ended.returncode in {2, 3, 5}
    assert len(errors) == 1, ended.stderr
    assert f"pip install 'tradesaga[{extra}]'" in errors[0]
    assert "Traceback" not in ended.stderr


def test_the_bare_wheel_has_what_a_deployment_needs(bare: Path, tmp_path: Path) -> None:
    """Commands against given servers get as far as asking for them."""
    for command in ("list", "audit verify", "account list", "status", "run gateway"):
        ended = run((bare / "tradesaga", *command.split(), "--json"), tmp_path, {})
        assert "pip install" not in ended.stderr, ended.stderr
        assert "unexpected" not in ended.stderr, ended.stderr


def test_the_version_is_printed(bare: Path, tmp_path: Path) -> None:
    """For people, and as JSON."""
    shown = run((bare / "tradesaga", "--version"), tmp_path, {})
    as_json = run((bare / "tradesaga", "--json", "--version"), tmp_path, {})

    assert shown.stdout == f"tradesaga {json.loads(as_json.stdout)['version']}\n"
    assert re.fullmatch(r"tradesaga \d+\.\d+\.\d+\n", shown.stdout)


def test_an_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """What is built from a published source holds the same files."""
    sdist = build(copied_project(tmp_path / "clone", {}), "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    again = build(next((tmp_path / "unpacked").iterdir()), "wheel", tmp_path / "again")

    assert again.read_bytes() == wheel.read_bytes()


def test_the_wheel_holds_every_shipped_file_and_nothing_of_the_clone(bare: Path) -> None:
    """Data files included; what only a clone needs is left out."""
    packages = site_packages(bare.parent) / "tradesaga"
    for path in shipped_files():
        name = path.relative_to(ROOT)
        assert (packages / name).is_file() == (name.parts[:2] != ("infra", "install")), name
    assert (packages / "infra" / "local_stack" / "kafka_jars.sha256").is_file()
    names = {name.name for name in packages.parent.iterdir()}
    assert not names & {*PACKAGES, "tests"}


def test_a_users_own_folders_of_the_same_names_disturb_nothing(bare: Path, tmp_path: Path) -> None:
    """Neither the command nor `--app` meets packages of the user's that are called as folders of the repository are."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the user's own')\n")
    (tmp_path / "ours.py").write_text("from tradesaga.sagas.trade.definition import trade\n")

    for command in (("--version",), ("schema", "check", "--app", "ours"), ("list", "--json")):
        ended = run((bare / "tradesaga", *command), tmp_path, {"PYTHONPATH": str(tmp_path)})
        assert "the user's own" not in ended.stdout + ended.stderr, ended
        assert "Traceback" not in ended.stderr


def imported() -> Iterator[str]:
    """Yield the name of every module from outside that shipped code imports."""
    for path in shipped_files():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module


def test_every_package_that_is_imported_is_required_within_bounds() -> None:
    """What only comes along with another package may go, or change, with any release of that one."""
    requirements = [Requirement(text) for text in distribution("tradesaga").requires or []]
    declared = {normalized(each.name).replace("-", "_") for each in requirements}
    own = {"tradesaga", "pydantic_core"}  # pydantic pins its core exactly
    names = {module.partition(".")[0] for module in imported()} - own - set(sys.stdlib_module_names)
    declared |= {"opentelemetry"} if "opentelemetry_api" in declared else set()

    assert names - declared == set()
    unbounded = [str(each) for each in requirements if not re.search(r"<|==", str(each.specifier))]
    assert unbounded == []


def test_the_reference_explains_every_extra() -> None:
    """The table of extras and the metadata name the same ones."""
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `\[(\w+)\]` \|", text, re.MULTILINE))

    assert told == set(distribution("tradesaga").metadata.get_all("Provides-Extra") or [])


def test_commands_are_found_in_an_editable_clone() -> None:
    """The environment that runs this is one: it imports the clone's own files."""
    assert distribution("tradesaga").read_text("direct_url.json")
    assert {point.name for point in entry_points(group="tradesaga.commands")} >= {"up", "down", "start"}
