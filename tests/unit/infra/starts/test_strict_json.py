"""JSON from strangers: what is refused, and in which words."""

import pytest

from tradesaga.infra.starts.strict_json import StrictJsonError, check_json


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "Expecting value"),
        (b"{} {}", "Extra data"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is repeated"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b"[" * 21 + b"]" * 21, "nested deeper than 20"),
        (b'{"a":' * 100_000, "nested deeper than 20"),
        (b'{"a": "\xc3"}', "not UTF-8 at byte 7"),
        (b"1" * 5000, "integer string conversion"),
    ],
)
def test_what_parsers_disagree_about_is_refused(text: bytes, told: str) -> None:
    """Each text is refused with the reason, and without exhausting the stack."""
    with pytest.raises(StrictJsonError, match=told):
        check_json(text)


def test_brackets_in_strings_are_no_nesting() -> None:
    """Only structure counts: a string may hold any number of brackets, quoted quotes included."""
    assert check_json(b'{"a": "[[[[[[[[[[[[[[[[[[[[[[\\"[["}') == {"a": '[[[[[[[[[[[[[[[[[[[[[["[['}
