"""What bounded nesting before: a pattern that is linear in itself, and begins anew at each quote of an open string."""

import re
from typing import Final

from tradesaga.infra.starts.strict_json import StrictJsonError

_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def check_nesting(text: bytes, depth: int) -> None:
    """Count the brackets outside of strings."""
    deepest = level = 0
    for byte in _STRING.sub(b"", text):
        level += (byte in b"[{") - (byte in b"]}")
        deepest = max(deepest, level)
    if deepest > depth:
        raise StrictJsonError("nested")
