"""Saga definitions: immutable values that any process can import without importing a handler."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Generic, TypeVar

from tradesaga.sagas.errors import DefinitionError
from tradesaga.sagas.step import AnyStep, Step, check_time
from tradesaga.sagas.validation import check, check_versions
from tradesaga.schemas.messages.message import Event, Message
from tradesaga.schemas.registry import Registry

Out = TypeVar("Out", bound=Event)
Last = TypeVar("Last", bound=Event)
Messages = tuple[type[Message], ...] | None


@dataclass(frozen=True, slots=True)
class Saga(Generic[Last]):
    """A saga's steps in causal order, its version and its deadline.

    `then` appends a step to a chain, with types that must fit; `also` appends one that reacts to an earlier event or
    joins several. `others` are other versions of the definition under which sagas still run: see `alongside`.
    """

    name: str
    version: int
    deadline: timedelta
    messages: Messages
    steps: tuple[AnyStep, ...]
    registry: Registry
    others: "tuple[Saga[Any], ...]" = ()

    def then(self, following: Step[Last, Out, Any]) -> "Saga[Out]":
        """Append a step that reacts to the last one's event. Raises `DefinitionError` if the saga cannot work."""
        return self.also(following)

    def also(self, branch: Step[Any, Out, Any]) -> "Saga[Out]":
        """Append a step that reacts to any earlier event, or joins several. Raises as `then` does."""
        return _define(EmptySaga(self.name, self.version, self.deadline, self.messages), (*self.steps, branch))

    def alongside(self, *others: "Saga[Any]") -> "Saga[Last]":
        """Return this definition together with other versions of it.

        New sagas start under this one; a saga that started under one of the others continues under that one.

        Raises `DefinitionError` for another saga, a version given twice, or messages that the versions disagree on.
        """
        beside: dict[int, Saga[Any]] = {each.version: each for each in self.others}
        for each in (each.alone for other in others for each in (other, *other.others)):
            if each.name != self.name:
                raise DefinitionError(f"{self.name}: {each.name!r} is another saga; versions of one share its name")
            if each == self.alone:
                continue
            if each.version == self.version or beside.setdefault(each.version, each) != each:
                raise DefinitionError(f"{self.name}: two definitions have version {each.version}; count one of them up")
        whole = replace(self, others=tuple(beside[version] for version in sorted(beside)))
        check_versions(self.name, {version: (each.steps, each.registry) for version, each in whole.versions.items()})
        return whole

    @property
    def alone(self) -> "Saga[Last]":
        """Return this definition without the others."""
        return replace(self, others=()) if self.others else self

    @property
    def versions(self) -> "dict[int, Saga[Any]]":
        """Return every definition by its version, this one first."""
        return {each.version: each for each in (self, *self.others)}

    @property
    def message_types(self) -> dict[str, type[Message]]:
        """Return the class of every wire type, of all versions."""
        return dict(item for each in (self, *self.others) for item in each.registry.items())

    @property
    def start(self) -> type[Event]:
        """Return the class of the event that starts the saga."""
        return self.steps[0].on[0]

    def step(self, name: str) -> AnyStep:
        """Find a step by name; raises `KeyError`."""
        for candidate in self.steps:
            if candidate.name == name:
                return candidate
        raise KeyError(f"saga {self.name!r} has no step {name!r}; it has {[s.name for s in self.steps]}")


AnySaga = Saga[Any]


@dataclass(frozen=True, slots=True)
class EmptySaga:
    """A saga without steps, to which the first is added."""

    name: str
    version: int
    deadline: timedelta
    messages: Messages

    def then(self, first: Step[Any, Out, Any]) -> Saga[Out]:
        """Add the first step, which reacts to the start."""
        return _define(self, (first,))


def saga(name: str, *, version: int, deadline: timedelta, messages: Iterable[type[Message]] | None = None) -> EmptySaga:
    """Start a definition. `messages` lists the saga's messages; the default is those that the steps name.

    Raises `DefinitionError` for a version below 1, or a deadline that is not a `timedelta` above zero.
    """
    check_time(f"{name}: deadline", deadline)
    if type(version) is not int:  # True is an int too
        raise DefinitionError(f"{name}: version {version!r} is no whole number")
    if version < 1 or deadline <= timedelta():
        raise DefinitionError(f"{name}: version {version} must be 1 or more, and deadline {deadline} above zero")
    return EmptySaga(name, version, deadline, None if messages is None else tuple(messages))


def seconds(count: float) -> timedelta:
    """Return a time in seconds: `timeout=seconds(2)`. Raises `DefinitionError` for what is not a number."""
    return _time("seconds", count)


def minutes(count: float) -> timedelta:
    """Return a time in minutes: `deadline=minutes(5)`. Raises `DefinitionError` for what is not a number."""
    return _time("minutes", count)


def _time(unit: str, count: float) -> timedelta:
    try:
        return timedelta(**{unit: count})
    except (TypeError, ValueError, OverflowError):
        raise DefinitionError(f"{unit}({count!r}) is no time; give a number of {unit}") from None


def _define(empty: EmptySaga, steps: tuple[AnyStep, ...]) -> Saga[Any]:
    for each in steps:
        if not isinstance(each, Step):  # pyright: ignore[reportUnnecessaryIsInstance] - not every program is checked
            raise DefinitionError(f"{empty.name}: {each!r} is no step; make one with `step(...)`")
    messages = empty.messages
    if messages is None:
        messages = tuple(dict.fromkeys(message for each in steps for message in each.messages))
    try:
        registry = Registry(empty.name, messages)
    except ValueError as error:
        raise DefinitionError(f"{error}; rename one of them") from None
    check(empty.name, steps, registry)
    return Saga(empty.name, empty.version, empty.deadline, empty.messages, steps, registry)
