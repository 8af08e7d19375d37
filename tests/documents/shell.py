"""The commands of shell blocks, held to the programs that they name."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import metadata
from importlib.util import find_spec
from typing import Any, Final

import typer
import typer.main

from tests.architecture.sources import ROOT
from tradesaga.infra.cli.entry import assemble
from tradesaga.infra.registry.app_modules import DISTRIBUTION

PLACEHOLDERS: Final = {
    "PARTITION": "3",
    "OFFSET": "1200",
    "LANE": "5",
    "ROW": "12",
    "N": "1",
    "aborted\\|completed": "aborted",
}
"""Words in capitals that stand for a number, and what is tried in their place; others are taken as they stand."""
OTHERS: Final = frozenset({
    "cat", "cd", "chown", "cp", "curl", "cut", "echo", "git", "grep", "kafka-configs.sh",
    "kafka-reassign-partitions.sh", "kafka-transactions.sh", "kubectl", "mkdir", "mv", "pg_basebackup", "pg_dump",
    "psql", "python3", "rm", "source", "touch", "true", "unshare",
})  # fmt: skip
"""Programs that are not ours; of these only the name is known."""
_ENDS: Final = frozenset({"|", "||", "&&", ";", "&"})
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_CAPTURE: Final = re.compile(r"^\w+=\$\((.*)\)$")
"""A variable set to what a command prints: `SAGA=$(tradesaga list)`."""
_TARGET: Final = re.compile(r"^([a-z-]+):", re.MULTILINE)


class ShownError(Exception):
    """A command that a page shows cannot be run as it stands."""


@dataclass(frozen=True)
class Command:
    """One simple command: the variables set for it, the program, its arguments."""

    variables: tuple[str, ...]
    program: str
    arguments: tuple[str, ...]


def commands_of(script: str) -> Iterator[Command]:
    """Yield the simple commands of a script; comments, redirections and here-documents are left out."""
    for line in _lines(script):
        words: list[str] = []
        for word in [*_words(_CAPTURE.sub(r"\1", line)), ";"]:
            if word in _ENDS:
                if words:
                    yield _command(words)
                words = []
            else:
                words.append(word)


def check_command(command: Command) -> None:
    """Hold one command to what is installed. Raises `ShownError`."""
    for variable in command.variables:
        check_variable(variable)
    if command.program in {"", *OTHERS}:
        return
    check = {
        "export": _check_export,
        "make": _check_make,
        "pip": _check_install,
        "python": _check_module,
        ".venv/bin/python": _check_module,
        "tradesaga": check_arguments,
    }.get(command.program)
    if check is None:
        raise ShownError(f"{command.program} is no program that pages may show: see OTHERS in tests/documents/shell.py")
    check(list(command.arguments))


def check_arguments(arguments: list[str]) -> None:
    """Parse the arguments of `tradesaga` as the command itself would, without running it. Raises `ShownError`."""
    command, path, rest = find_command(arguments)
    if hasattr(command, "commands") and not command.invoke_without_command and not {"--help", "--version"} & {*rest}:
        raise ShownError(f"`{path}` needs a command")
    if {"--help", "--version"} & {*rest}:
        return
    words = [PLACEHOLDERS.get(word, word) for word in rest]
    try:
        command.make_context(path, words).close()
    except typer.TyperException as error:
        raise ShownError(f"`{path} {shlex.join(words)}`: {error.format_message()}") from error


def check_mention(arguments: list[str]) -> None:
    """Hold a command that a sentence names to its command and options; arguments may be left out."""
    command, path, rest = find_command(arguments)
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in known | {"--help", "--version", "--json"}:
            raise ShownError(f"`{path}` has no option {option}")


def find_command(arguments: list[str]) -> tuple[Any, str, list[str]]:
    """Return the command that arguments name, its path, and what is left of them. Raises `ShownError`."""
    command, path, rest = root(), "tradesaga", list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            raise ShownError(f"`{path}` has no command {rest[0]}")
        path = f"{path} {rest[0]}"
        command = command.commands[rest.pop(0)]
    return command, path, rest


@cache
def root() -> Any:
    """Return the command `tradesaga` with the commands of all packages."""
    return typer.main.get_command(assemble())


def check_variable(assignment: str) -> None:
    """Hold a variable of ours to the settings. Raises `ShownError`."""
    name = assignment.partition("=")[0]
    if name.startswith("TRADESAGA_") and name not in known_settings() and "DATABASE_URL_" not in name:
        raise ShownError(f"there is no setting {name}")


@cache
def known_settings() -> frozenset[str]:
    """Return every variable that the reference lists."""
    text = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    return frozenset(re.findall(r"`(TRADESAGA_\w+)`", text))


@cache
def _targets() -> frozenset[str]:
    return frozenset(_TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))


def _check_export(arguments: list[str]) -> None:
    for each in arguments:
        check_variable(each)


def _check_make(arguments: list[str]) -> None:
    for each in arguments:
        if not _ASSIGNMENT.fullmatch(each) and each not in _targets():
            raise ShownError(f"there is nothing to make called {each}")


def _check_module(arguments: list[str]) -> None:
    if arguments[:1] != ["-m"] or (find_spec(arguments[1]) is None and arguments[1] != "venv"):
        raise ShownError(f"there is no module {arguments}")


def _check_install(arguments: list[str]) -> None:
    for each in arguments:
        for extra in re.findall(r"\btradesaga\[([\w,]+)\]", each):
            if missing := {*extra.split(",")} - {*metadata(DISTRIBUTION).get_all("Provides-Extra", [])}:
                raise ShownError(f"there is no extra {missing}")


def _lines(script: str) -> Iterator[str]:
    """Join continued lines; leave out the text of here-documents."""
    joined, until = "", ""
    for line in script.splitlines():
        if until:
            until = "" if line == until else until
            continue
        joined += line
        if joined.endswith("\\"):
            joined = joined[:-1]
            continue
        if found := re.search(r"<<'?(\w+)'?", joined):
            until = found[1]
        yield joined
        joined = ""


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    redirected = False
    for word in lexer:
        if word in {">", ">>", "<", "<<"}:
            redirected = True
        elif redirected:
            redirected = False
        else:
            words.append(word)
    return words


def _command(words: list[str]) -> Command:
    start = next((index for index, word in enumerate(words) if not _ASSIGNMENT.fullmatch(word)), len(words))
    program = words[start] if start < len(words) else ""
    return Command(tuple(words[:start]), program, tuple(words[start + 1 :]))
