"""Changing shipped code at run time: a function's text, a value wherever it was imported to, an attribute."""

import inspect
import sys
import textwrap
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

PACKAGE = "tradesaga."


class SurgeryError(Exception):
    """The code is not what the mutant was written for: write the mutant anew."""


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Generator[None]:
    """Give an attribute another value while the context is open."""
    former = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, former)


@contextmanager
def everywhere(former: Any, value: Any) -> Generator[None]:
    """Replace a function, or a constant, in every module of ours that has it under any name."""
    with ExitStack() as stack:
        found = [
            (module, name)
            for path, module in list(sys.modules.items())
            if path.startswith(PACKAGE)
            for name, held in list(vars(module).items())
            if held is former
        ]
        if not found:
            raise SurgeryError(f"nobody has {former!r}")
        for module, name in found:
            stack.enter_context(replaced(module, name, value))
        yield


def rewritten(function: Callable[..., Any], *changes: tuple[str, str]) -> Callable[..., Any]:
    """Compile a function anew with parts of its text changed; raises `SurgeryError` for one that is not there once."""
    text = textwrap.dedent(inspect.getsource(function))
    for before, after in changes:
        if text.count(before) != 1:
            raise SurgeryError(f"{function.__qualname__} holds {text.count(before)} times: {before}")
        text = text.replace(before, after)
    names = dict(function.__globals__)
    exec(compile(text, f"<mutant of {function.__qualname__}>", "exec"), names)
    return names[function.__name__]


@contextmanager
def changed(owner: type, name: str, *changes: tuple[str, str]) -> Generator[None]:
    """Change the text of a method."""
    with replaced(owner, name, rewritten(vars(owner)[name], *changes)):
        yield
