"""Check the signature and annotations of functions that are bound to steps."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from tradesaga.sagas.errors import DefinitionError
from tradesaga.sagas.step import AnyStep
from tradesaga.schemas.messages.message import Message

Types = tuple[type[Message], ...]


@dataclass(frozen=True, slots=True)
class _Role:
    """How functions of one role are called: number of arguments, async or not, one message or many."""

    arguments: int = 2
    awaited: bool = True
    many: bool = False
    takes: str = "on"
    answers: str = "forward"
    """`forward`, `back`, or `found`: forward, where None means not yet known."""


_ROLES: Final = {
    "handle": _Role(),
    "handle_batch": _Role(many=True),
    "call": _Role(),
    "query": _Role(answers="found"),
    "compensate": _Role(takes="back", answers="back"),
    "compensate_batch": _Role(takes="back", answers="back", many=True),
    "compensate_remotely": _Role(takes="back", answers="back"),
    "correlate": _Role(arguments=1, awaited=False, takes="", answers=""),
    "conclude": _Role(awaited=False, takes="", answers="found"),
    "poll": _Role(arguments=1, takes="", answers=""),
    "bar": _Role(arguments=1, takes="", answers=""),
    "contradict": _Role(awaited=False, takes="", answers=""),
    "restore": _Role(takes="", answers=""),
    "restore_back": _Role(takes="", answers=""),
}


def check_function(function: Callable[..., Any], step: AnyStep, role: str, where: str) -> None:
    """Raise `DefinitionError` for a function that does not fit the step; missing annotations are not checked."""
    expected = _ROLES[role]
    if not callable(function):
        raise DefinitionError(f"{where}: {function!r} is no function")
    name = f"{where}: {getattr(function, '__name__', type(function).__name__)}"
    if step.back is None and "back" in {expected.takes, expected.answers}:
        raise DefinitionError(f"{name}: step {step.name!r} has no compensation; give it `compensate` and `compensated`")
    hints = _hints(function)
    if expected.awaited and not _is_awaited(function, hints.get("return")):
        raise DefinitionError(f"{name} is not `async def`")
    parameters = _parameters(function, expected.arguments, name)
    if expected.takes and parameters:
        wanted = step.on if expected.takes == "on" else (step.back or ())[:1]
        _check_message(hints.get(parameters[0]), wanted, name, many=expected.many)
    if expected.answers and "return" in hints:
        allowed = step.back_answers if expected.answers == "back" else step.answers
        _check_answer(hints["return"], allowed, name, expected)


def name_types(types: Sequence[type]) -> str:
    """Join the names of types with "or"."""
    return " or ".join(each.__name__ for each in types)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations; none if they name what does not exist at run time."""
    target = function.func if isinstance(function, functools.partial) else function
    if not (inspect.isfunction(target) or inspect.ismethod(target)):
        target = type(target).__call__
    try:
        return get_type_hints(target)
    except (NameError, TypeError, AttributeError):
        return {}


def _is_awaited(function: Callable[..., Any], answer: Any) -> bool:
    inner = inspect.unwrap(function)
    plain = inspect.isfunction(inner) or inspect.ismethod(inner)
    return not plain or inspect.iscoroutinefunction(inner) or get_origin(answer) in {Awaitable, Coroutine}


def _parameters(function: Callable[..., Any], count: int, name: str) -> list[str]:
    """Return the positional parameters. Raises `DefinitionError` unless `count` arguments can be passed."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin
        return []
    try:
        signature.bind(*[None] * count)
    except TypeError as error:
        raise DefinitionError(f"{name} is called with {count} arguments, which it does not take: {error}") from None
    kinds = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return [each.name for each in signature.parameters.values() if each.kind in kinds]


def _check_message(hint: Any, wanted: Sequence[type[Message]], name: str, *, many: bool) -> None:
    """Raise for a message type that is never passed; annotations that are no messages are left to the type checker."""
    found = [part for part in _parts(_inner(_inner(hint)) if many else hint) if _is_message(part)]
    if found and not any(issubclass(message, tuple(found)) for message in wanted):
        raise DefinitionError(f"{name} takes {name_types(found)}; it is called with {name_types(wanted)}")


def _check_answer(hint: Any, allowed: Types, name: str, role: _Role) -> None:
    if get_origin(hint) in {Awaitable, Coroutine}:
        hint = get_args(hint)[-1]
    if role.many:
        hint = _inner(hint)
    wrong = [part for part in _parts(hint) if isinstance(part, type) and part not in allowed]
    if role.answers == "found":
        wrong = [part for part in wrong if part is not NoneType]
    if bad := [part for part in wrong if not _may_be_message(part)]:
        raise DefinitionError(f"{name} returns {name_types(bad)}; its step answers with {name_types(allowed)}")


def _may_be_message(part: type) -> bool:
    """Return whether the annotation is a base class, so that its value may be an answer all the same."""
    return part is object or (_is_message(part) and bool(part.__subclasses__()))


def _parts(hint: Any) -> list[Any]:
    parts = list(get_args(hint)) if get_origin(hint) in {Union, UnionType} else [] if hint is None else [hint]
    return [part for part in parts if part is not Any]  # which is a class


def _inner(hint: Any) -> Any:
    """Return the type argument of a sequence or a `Work`."""
    arguments = get_args(hint)
    return arguments[0] if arguments else None


def _is_message(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, Message)
