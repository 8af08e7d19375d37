"""Lists of arguments made from the real command tree: known and unknown options, values of all kinds."""

from collections.abc import Sequence
from random import Random
from typing import Any, Final, NamedTuple, cast

import typer

from tradesaga.infra.cli.entry import assemble

VALUES: Final = (
    "", "-", "--", "0", "-1", "1", "1e9", "NaN", "inf", "99999999999999999999999", "0x10", "1_000", "\u0661\u0662", "ä",
    "\u202e", "a" * 5000, "None", "null", "true", "{}", "[1", "%s%n", "' OR 1=1 --", "$(id)", "a b", "a\nb", "\t",
    "--json", "-m", "@x", "no/such/folder/file", "3f2b6c1e-0d4a-4b6e-9a57-1c2d3e4f5a6b", "3f2b6c", "EUR/USD", "buy",
    "alice", "trade", "2026-11-23", "2026-13-45T99:00:00Z", "1h", "RUNNING", "venue", "paper", "aborted", "retry",
    "discard", "\udcff", "a\0b", ".relative",
)  # fmt: skip
"""Values for any place; no path leads out of the working folder."""
LONG_LIVED: Final = frozenset({
    ("up",), ("run",), ("venue",), ("demo",), ("demo-selftest",), ("simulate",), ("strategy", "run"), ("logs",),
})  # fmt: skip
"""Commands that would start something or wait for ever: their lists always have a mistake."""
UNKNOWN: Final = "--no-such-option"


class Shape(NamedTuple):
    """What one command takes."""

    path: tuple[str, ...]
    arguments: int
    options: tuple[tuple[str, bool], ...]
    """Each option and whether it is a flag."""


def shapes() -> list[Shape]:
    """Give every command that is installed."""
    found: list[Shape] = []
    _walk(typer.main.get_command(assemble()), (), found)
    return found


def _walk(command: Any, path: tuple[str, ...], found: list[Shape]) -> None:
    inner = cast("dict[str, Any] | None", getattr(command, "commands", None))
    if inner:
        for name, each in inner.items():
            _walk(each, (*path, name), found)
        return
    options = [
        (opt, bool(each.is_flag)) for each in command.params if each.param_type_name == "option" for opt in each.opts
    ]
    arguments = sum(1 for each in command.params if each.param_type_name == "argument")
    found.append(Shape(path, arguments, tuple(options)))


def draw(chance: Random, known: Sequence[Shape]) -> list[str]:
    """Give a list of arguments, more or less wrong."""
    shape = chance.choice(known)
    words = [chance.choice(VALUES) for _ in range(max(0, shape.arguments + chance.choice((0, 0, 0, -1, 1))))]
    for option, flag in chance.sample(shape.options, chance.randint(0, min(4, len(shape.options)))):
        if option == "--dir":
            continue
        words += [option] if flag and chance.random() < 0.9 else [option, chance.choice(VALUES)]
        if chance.random() < 0.1:
            words[-1:] = []
    path = list(shape.path)
    if chance.random() < 0.05:
        path[-1] = chance.choice(VALUES)
    if chance.random() < 0.3:
        words.append("--json")
    if shape.path in LONG_LIVED or chance.random() < 0.05:
        words = [UNKNOWN, *words]
    return [*path, *words]
