"""How many steps a backtracking matcher takes: Python's `re` counts none, and runs in C."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.architecture.regular_expressions import CATEGORIES, op, parser

Items = Sequence[tuple[Any, Any]]


class Stepper:
    """Matches as `re` does, by trying, and calls `step` for each character that it looks at."""

    def __init__(self, pattern: "re.Pattern[Any]", step: Callable[[], None]) -> None:
        self._items: Items = list(parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG))
        self._flags = pattern.flags
        self._step = step

    def match(self, text: str, start: int, *, whole: bool) -> int | None:
        """Return where the match that begins at `start` ends."""
        ends = self._sequence(self._items, text, start)
        return next((end for end in ends if not whole or end == len(text)), None)

    def search(self, text: str, start: int) -> tuple[int, int] | None:
        """Return the first match from `start` on."""
        for place in range(start, len(text) + 1):
            if (end := self.match(text, place, whole=False)) is not None:
                return place, end
        return None

    def search_all(self, text: str) -> None:
        """Look for one match behind the other, as `sub` and `findall` do."""
        place = 0
        while place <= len(text) and (found := self.search(text, place)) is not None:
            place = max(found[1], found[0] + 1)

    def _sequence(self, items: Items, text: str, place: int) -> Iterator[int]:
        if not items:
            yield place
            return
        for end in self._item(items[0], text, place):
            yield from self._sequence(items[1:], text, end)

    def _item(self, item: tuple[Any, Any], text: str, place: int) -> Iterator[int]:  # noqa: C901 - one case a code
        code, argument = item
        if code in {op.MAX_REPEAT, op.MIN_REPEAT}:
            yield from self._repeat(code, argument, text, place)
        elif code is op.SUBPATTERN:
            yield from self._sequence(list(argument[3]), text, place)
        elif code is op.BRANCH:
            for branch in argument[1]:
                yield from self._sequence(list(branch), text, place)
        elif code in {op.ASSERT, op.ASSERT_NOT}:
            if self._looks(argument, text, place) == (code is op.ASSERT):
                yield place
        elif code is op.AT:
            if place == (0 if argument in {op.AT_BEGINNING, op.AT_BEGINNING_STRING} else len(text)):
                yield place
        elif place < len(text) and self._takes(code, argument, text[place]):
            yield place + 1

    def _repeat(self, code: Any, argument: Any, text: str, place: int) -> Iterator[int]:
        least, most, body = argument
        inner = list(body)

        def on(place: int, count: int) -> Iterator[int]:
            if code is op.MIN_REPEAT and count >= least:
                yield place
            if count < most:
                for end in self._sequence(inner, text, place):
                    if end > place or count < least:
                        yield from on(end, count + 1)
            if code is op.MAX_REPEAT and count >= least:
                yield place

        yield from on(place, 0)

    def _looks(self, argument: Any, text: str, place: int) -> bool:
        direction, body = argument
        if direction > 0:
            return next(self._sequence(list(body), text, place), None) is not None
        width = body.getwidth()[0]
        return place >= width and place in self._sequence(list(body), text, place - width)

    def _takes(self, code: Any, argument: Any, character: str) -> bool:
        self._step()
        if code is op.IN:
            taken = any(_takes_one(each[0], each[1], character) for each in argument if each[0] is not op.NEGATE)
            return taken != (argument[0][0] is op.NEGATE)
        return _takes_one(code, argument, character)


def _takes_one(code: Any, argument: Any, character: str) -> bool:
    if code is op.LITERAL:
        return ord(character) == argument
    if code is op.NOT_LITERAL:
        return ord(character) != argument
    if code is op.ANY:
        return True
    if code is op.RANGE:
        return argument[0] <= ord(character) <= argument[1]
    return re.match(CATEGORIES[argument], character) is not None
