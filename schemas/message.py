"""The frozen bases of everything that crosses the wire."""

import re
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict

_HUMP = re.compile(r"(?<!^)(?=[A-Z])")


class Message(BaseModel):
    """A frozen value with a name and a version; its wire type is `<saga>.<NAME>.v<VERSION>`.

    Producers are closed (an unknown field is an error when a message is made); consumers are open (`from_wire` ignores
    fields it does not know), so that either side of a deployment may go first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    NAME: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1

    def __init_subclass__(cls, *, version: int = 1) -> None:
        """Derive the wire name from the class name: `FundsReserved` is `funds-reserved`."""
        super().__init_subclass__()
        cls.NAME = _HUMP.sub("-", cls.__name__).lower()
        cls.VERSION = version

    @classmethod
    def from_wire(cls, value: bytes) -> Self:
        """Read the JSON of a record; raises `pydantic.ValidationError` with the fields that are wrong."""
        return cls.model_validate_json(value, extra="ignore")

    def to_wire(self) -> bytes:
        """Write compact JSON in UTF-8, absent options left out."""
        return self.__pydantic_serializer__.to_json(self, exclude_none=True)


class Event(Message):
    """Something that has happened; named in the past tense."""


class Command(Message):
    """Something the saga log asks a participant to do; named in the imperative."""


class Compensation(Command):
    """Asks for a step to be taken back. Adds no field of its own: what was done is found in the saga's context."""

    reason: str = ""


def wire_type(saga: str, message: type[Message]) -> str:
    """Give the `ce_type` of `message` in `saga`: `trade.funds-reserved.v1`."""
    return f"{saga}.{message.NAME}.v{message.VERSION}"
