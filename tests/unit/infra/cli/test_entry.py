"""Every end of a command is an exit code and at most one sentence, or one JSON object."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import FunctionType

import asyncpg
import pytest
import typer
from aiokafka.errors import KafkaConnectionError

from tradesaga.infra.cli import entry
from tradesaga.infra.cli.entry import execute
from tradesaga.infra.errors import CommandError, ExitCode

Install = Callable[[Callable[..., None]], None]
ENDS = [
    (CommandError("gone", "it is gone", "there", "look elsewhere", ExitCode.NOT_FOUND), ExitCode.NOT_FOUND, "gone"),
    (CommandError("no", "it is refused", "there", "ask", ExitCode.REFUSED), ExitCode.REFUSED, "no"),
    (KafkaConnectionError("unable to bootstrap"), ExitCode.UNAVAILABLE, "kafka-unavailable"),
    (asyncpg.InvalidPasswordError("password authentication failed"), ExitCode.UNAVAILABLE, "database-login"),
    (asyncpg.CannotConnectNowError("starting up"), ExitCode.UNAVAILABLE, "database-unavailable"),
    (ConnectionRefusedError(111, "Connection refused"), ExitCode.UNAVAILABLE, "server-unavailable"),
    (FileNotFoundError(2, "No such file or directory", "keys/mine"), ExitCode.USAGE, "file"),
    (OSError(36, "File name too long", "a" * 5000), ExitCode.USAGE, "file"),
    (ZeroDivisionError("division by zero"), ExitCode.CHECK_FAILED, "app-failed"),
]


def _offer(monkeypatch: pytest.MonkeyPatch, points: EntryPoints) -> None:
    def entry_points(group: str) -> EntryPoints:
        return points.select(group=group)

    monkeypatch.setattr(entry, "entry_points", entry_points)


@pytest.fixture
def with_command(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a function as the only command, `act`."""

    def install(act: Callable[..., None]) -> None:
        monkeypatch.setattr(sys.modules[__name__], "_act", act, raising=False)
        points = EntryPoints([EntryPoint("act", f"{__name__}:_act", entry.COMMANDS)])
        _offer(monkeypatch, points)

    return install


@pytest.mark.parametrize("word", ["\udcff", "a\0b"])
def test_an_argument_that_is_no_text_is_misuse(
    with_command: Install, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    """What a shell passes on need not be UTF-8; it is refused before any command sees it."""
    with_command(lambda: None)
    assert execute(["act", word, "--json"]) == ExitCode.USAGE
    assert json.loads(capsys.readouterr().err)["error"]["what"] == "an argument is not text"


@pytest.mark.parametrize(("error", "code", "slug"), ENDS)
def test_an_error_is_one_sentence_or_one_json_object(
    with_command: Install,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: ExitCode,
    slug: str,
) -> None:
    """Known failures of servers have exit code 5; none shows a stack trace."""

    def act(*, as_json: bool = typer.Option(False, "--json")) -> None:
        raise error

    with_command(act)
    assert execute(["act"]) == code
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    assert "Traceback" not in sentence
    assert execute(["act", "--json"]) == code
    shown = json.loads(capsys.readouterr().err)["error"]
    assert shown["code"] == slug
    assert shown.keys() == {"code", "what", "where", "do"}


def test_ctrl_c_ends_a_command_with_its_own_code(with_command: Install, capsys: pytest.CaptureFixture[str]) -> None:
    """130, as shells expect, and nothing printed."""

    def act() -> None:
        raise KeyboardInterrupt

    with_command(act)
    assert execute(["act"]) == ExitCode.INTERRUPTED
    assert not capsys.readouterr().err


def test_a_commands_own_exit_code_is_kept(with_command: Install) -> None:
    """`typer.Exit` passes through; a plain return is 0."""

    def act(code: int) -> None:
        if code:
            raise typer.Exit(code)

    with_command(act)
    assert execute(["act", "0"]) == ExitCode.FINE
    assert execute(["act", "4"]) == ExitCode.REFUSED


def test_wrong_arguments_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and the command whose help explains."""
    assert execute(["no-such-command", "--json"]) == ExitCode.USAGE
    assert "no-such-command" in json.loads(capsys.readouterr().err)["error"]["what"]
    assert execute(["status", "--no-such-option"]) == ExitCode.USAGE
    assert "tradesaga status --help" in capsys.readouterr().err


def test_a_package_that_cannot_be_loaded_does_not_take_the_others_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is broken is named on stderr; the help still shows the rest."""
    points = EntryPoints(
        [
            EntryPoint("broken", "no_such_module:app", entry.COMMANDS),
            EntryPoint("status", "tradesaga.infra.local_stack.display:status", entry.COMMANDS),
        ]
    )
    _offer(monkeypatch, points)
    assert execute(["--help"]) == ExitCode.FINE
    captured = capsys.readouterr()
    assert "broken" in captured.err
    assert "status" in captured.out


def test_the_trace_of_an_unexpected_error_is_kept_in_a_file(
    with_command: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names the file; TRADESAGA_DEBUG shows the trace at once."""

    def act(*, as_json: bool = typer.Option(False, "--json")) -> None:
        fail()

    def nothing() -> None:
        raise LookupError("nothing there")

    ours = nothing.__code__.replace(co_filename=str(Path(entry.__file__)))
    fail = FunctionType(ours, {"LookupError": LookupError})
    with_command(act)
    assert execute(["act", "--json"]) == ExitCode.CHECK_FAILED
    where = json.loads(capsys.readouterr().err)["error"]["where"]
    assert "LookupError: nothing there" in Path(where).read_text()


def test_debug_shows_the_trace(with_command: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """For those who mend the program itself."""

    def act() -> None:
        raise LookupError("nothing there")

    with_command(act)
    monkeypatch.setenv("TRADESAGA_DEBUG", "1")
    with pytest.raises(LookupError):
        execute(["act"])


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """`tradesaga … | head -1` ends without a word on stderr."""
    program = (
        "import sys, typer, tradesaga.infra.cli.entry as c\n"
        "from importlib.metadata import EntryPoint, EntryPoints\n"
        "def act():\n    for n in range(100000): print(n)\n"
        "sys.modules['acting'] = type(sys)('acting'); sys.modules['acting'].act = act\n"
        "c.entry_points = lambda group: EntryPoints([EntryPoint('act', 'acting:act', group)])\n"
        "sys.exit(c.execute(['act']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert not process.stderr.read()
