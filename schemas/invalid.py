"""Describe validation errors by the names of fields, never by their values."""

from typing import Final, NamedTuple

from pydantic import ValidationError

_LISTED: Final = 100
"""Number of errors above which only their count is given: describing a million would take seconds."""
_SHOWN: Final = 3
_NAME_LIMIT: Final = 100
"""Characters shown of a field's name, which may be the sender's own."""


class Invalid(NamedTuple):
    """The first validation error: the `path` of the field, empty if the whole value is invalid."""

    path: tuple[str, ...]
    reason: str

    @property
    def field(self) -> str:
        """Return the path as it is written for people: `limits.0.symbol`."""
        return ".".join(self.path)


def first_invalid(error: ValidationError) -> Invalid:
    """Return the first error, for messages about command lines, settings and files, which name one."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return Invalid(tuple(map(str, first["loc"])), first["msg"].removeprefix("Value error, "))


def describe_invalid(error: ValidationError, whole: str) -> str:
    """Return which fields are invalid and why; `whole` names the value if the error is not a field's.

    The text is bounded, and so is the time it takes. Values are left out: they may be confidential.
    """
    count = error.error_count()
    if count > _LISTED:
        return f"{whole}: {count} fields or items are wrong"
    wrong = error.errors(include_url=False, include_input=False, include_context=False)
    told = [f"{'.'.join(map(str, each['loc']))[:_NAME_LIMIT] or whole}: {each['msg']}" for each in wrong[:_SHOWN]]
    return "; ".join(told + ([f"and {count - _SHOWN} more"] if count > _SHOWN else []))
