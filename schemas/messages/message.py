"""Base classes of messages."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, NoReturn, Self, cast

from pydantic import BaseModel, ConfigDict, ValidationError

_HUMP = re.compile(r"(?<!^)(?=[A-Z])")


_CONSTANTS: Final = (b"NaN", b"Infinity")


class NotFiniteError(ValueError):
    """A message has NaN or an infinity, which JSON cannot represent; the error names the field."""


class Message(BaseModel):
    """An immutable message with a name and a version; its wire type is `<saga>.<NAME>.v<VERSION>`.

    Producers are closed (an unknown field is an error when a message is made); consumers are open (`from_wire` ignores
    fields it does not know), so that either side of a deployment may go first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    NAME: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1
    EARLIER: ClassVar[tuple[type["Message"], ...]] = ()

    def __init_subclass__(cls, *, version: int = 1, name: str = "", earlier: tuple[type["Message"], ...] = ()) -> None:
        """Derive the wire name from the class name: `FundsReserved` is `funds-reserved`.

        `earlier` lists the classes of earlier versions, which are still read but no longer written; each has the `name`
        of this one, and an `upcast` that returns this class.
        """
        super().__init_subclass__()
        cls.NAME = name or _HUMP.sub("-", cls.__name__).lower()
        cls.VERSION = version
        cls.EARLIER = earlier

    @classmethod
    def from_wire(cls, value: bytes) -> Self:
        """Read the JSON of a record; raises `pydantic.ValidationError`."""
        return cls.model_validate_json(value, extra="ignore")

    @classmethod
    def read(cls, value: bytes) -> Self:
        """Read the JSON of this version or an earlier one, as this one; raises `pydantic.ValidationError`."""
        return cls._read(lambda each: each.from_wire(value))

    @classmethod
    def read_object(cls, value: Mapping[str, Any]) -> Self:
        """Read parsed JSON of this version or an earlier one, as this one; raises `pydantic.ValidationError`."""
        return cls._read(lambda each: each.model_validate(value, extra="ignore"))

    @classmethod
    def _read(cls, parse: "Callable[[type[Message]], Message]") -> Self:
        error: ValidationError | None = None
        for version in (cls, *cls.EARLIER):
            try:
                found = parse(version).upcast()
            except ValidationError as wrong:
                error = error or wrong
                continue
            if isinstance(found, cls):
                return found
        raise error or TypeError(f"{cls.__qualname__} is not what its earlier versions upcast to")

    def upcast(self) -> "Message":
        """Return the same message in its current version; a class of an earlier version overrides this."""
        return self

    def to_wire(self) -> bytes:
        """Return compact JSON in UTF-8, without fields that are None. Raises `NotFiniteError`."""
        value = self.__pydantic_serializer__.to_json(self, exclude_none=True)
        if _CONSTANTS[0] in value or _CONSTANTS[1] in value:
            self._check_finite(value)
        return value

    def _check_finite(self, value: bytes) -> None:
        """Raise `NotFiniteError` if the constant is a number and not part of a string."""

        def refuse(constant: str) -> NoReturn:
            field = next(_not_finite("", self.model_dump(mode="python")), "")
            where = f"{type(self).__name__}.{field}" if field else type(self).__name__
            raise NotFiniteError(f"{where} is {constant}, which is no JSON number")

        json.loads(value, parse_constant=refuse)


class Event(Message):
    """Something that has happened; named in the past tense."""


class Command(Message):
    """What the saga log commands a participant to do; named in the imperative."""


class Compensation(Command):
    """Commands the compensation of a step. Subclasses add no fields: what was done is in the saga's context."""

    reason: str = ""


def wire_type(saga: str, message: type[Message]) -> str:
    """Return the `ce_type` of `message` in `saga`: `trade.funds-reserved.v1`."""
    return f"{saga}.{message.NAME}.v{message.VERSION}"


def _not_finite(path: str, value: Any) -> Iterator[str]:
    """Yield the paths of NaN and infinities."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    members: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        members = list(cast("dict[Any, Any]", value).items())
    elif isinstance(value, list | tuple):
        members = list(enumerate(cast("Sequence[Any]", value)))
    for name, member in members:
        yield from _not_finite(f"{path}.{name}" if path else str(name), member)
