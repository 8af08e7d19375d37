"""What is wrong with a value that a schema refuses: the fields by name, never what they hold."""

from typing import Final

from pydantic import ValidationError

_LISTED: Final = 100
"""Errors up to which they are listed at all: a list of a million wrong items would take seconds to describe."""
_SHOWN: Final = 3
_NAME_LIMIT: Final = 100
"""Characters shown of a field's name, which may be the sender's own."""


def describe_invalid(error: ValidationError, whole: str) -> str:
    """Return which fields are wrong and why; `whole` names the value where no field is to blame.

    The text is bounded, and so is the time it takes. Values are left out: they may be confidential.
    """
    count = error.error_count()
    if count > _LISTED:
        return f"{whole}: {count} fields or items are wrong"
    wrong = error.errors(include_url=False, include_input=False, include_context=False)
    told = [f"{'.'.join(map(str, each['loc']))[:_NAME_LIMIT] or whole}: {each['msg']}" for each in wrong[:_SHOWN]]
    return "; ".join(told + ([f"and {count - _SHOWN} more"] if count > _SHOWN else []))
