"""Which regular expressions may take more than linear time, told from how they are built.

Python's `re` backtracks. A repetition inside a repetition, alternatives that begin alike under a repetition, and two
repetitions that can share out the same characters have it try every way of sharing them out. A search that begins
anew at each character, only to run on over the same text each time, is quadratic by itself.
"""

import importlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

op: Any = importlib.import_module("re._constants")
parser: Any = importlib.import_module("re._parser")
"""Private, and the only parser of these expressions there is."""
ALPHABET: Final = frozenset([*map(chr, range(128)), "\xa0", "\xb2", "\xe9", "\u0661", "\u4e00", "\U0001f600"])
"""What sets of characters are compared by: ASCII, and of the rest one of each sort."""
CATEGORIES: Final[dict[Any, str]] = {
    op.CATEGORY_DIGIT: r"\d", op.CATEGORY_NOT_DIGIT: r"\D", op.CATEGORY_SPACE: r"\s", op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w", op.CATEGORY_NOT_WORD: r"\W",
}  # fmt: skip
_REPEATS: Final[tuple[Any, ...]] = (op.MAX_REPEAT, op.MIN_REPEAT)
_EMPTY: Final = frozenset[str]()
Items = Sequence[tuple[Any, Any]]


class Part(NamedTuple):
    """A member of a sequence: `every` are the characters it may hold, `first` those it may begin with.

    `nullable`: it may match nothing. `varies`: it repeats a number of times that is not fixed, and more than once.
    """

    first: frozenset[str]
    every: frozenset[str]
    nullable: bool
    varies: bool = False
    endless: bool = False


def flaws(pattern: str | bytes, *, searched: bool) -> list[str]:
    """Return why matching may take more than linear time; `searched`: a match may begin anywhere in the text."""
    tree = parser.parse(pattern)
    found = list(_flaws(_items(tree)))
    if searched:
        for branch in _alternatives(_items(tree)):
            found += _search_flaws(branch)
    return found


def _items(tree: Any) -> Items:
    return cast("Items", list(tree))


def _alternatives(items: Items) -> list[Items]:
    if len(items) == 1 and items[0][0] is op.BRANCH:
        return [_items(each) for each in items[0][1][1]]
    return [items]


def _flaws(items: Items) -> Iterator[str]:
    """Walk through a sequence and all that is inside of it."""
    parts = [_part(item) for item in items]
    for place, item in enumerate(items):
        code, argument = item
        if code in _REPEATS and argument[1] > 1:
            yield from _repeat_flaws(_items(argument[2]))
        for inner in _inner(item):
            yield from _flaws(inner)
        if parts[place].varies and _shares(parts[place], parts[place + 1 :]):
            yield "two repetitions can share out the same characters"


def _inner(item: tuple[Any, Any]) -> list[Items]:
    """Return the sequences inside of an item."""
    code, argument = item
    if code in _REPEATS:
        return [_items(argument[2])]
    if code is op.SUBPATTERN:
        return [_items(argument[3])]
    if code is op.BRANCH:
        return [_items(branch) for branch in argument[1]]
    return [_items(argument[1])] if code in {op.ASSERT, op.ASSERT_NOT} else []


def _repeat_flaws(body: Items) -> Iterator[str]:
    if any(part.varies for part in _deep(body)):
        yield "a repetition inside a repetition"
    if _sequence(body).nullable:
        yield "a repetition of what may be nothing"
    for branches in _branches(body):
        firsts = [_sequence(_items(branch)).first for branch in branches]
        if sum(map(len, firsts)) != len(frozenset[str]().union(*firsts)):
            yield "a repetition of alternatives that begin alike"


def _shares(one: Part, following: Sequence[Part]) -> bool:
    """Say whether a later repetition may take what this one has taken, with nothing between them that tells where."""
    for part in following:
        if part.varies and part.every & one.every:
            return True
        if not part.nullable and not part.every & one.every:
            return False
    return False


def _search_flaws(items: Items) -> Iterator[str]:
    """What must match before a repetition has to have a character that the repetition does not take.

    Then no second match can begin inside of the text that a first attempt has run over.
    """
    parts = [_part(item) for item in items]
    for place, part in enumerate(parts):
        demands = any(not each.nullable for each in parts[place + 1 :]) or any(
            code in {op.AT, op.ASSERT, op.ASSERT_NOT} for code, _ in items[place + 1 :]
        )
        anchored = any(demanded.isdisjoint(part.every) for demanded in _demanded(items[:place]))
        if part.endless and demands and not anchored and (op.AT, op.AT_BEGINNING_STRING) not in items[:place]:
            yield "each search runs over the same text again"


def _demanded(items: Items) -> Iterator[frozenset[str]]:
    """Return the characters of which one must stand before, place by place; a lookbehind demands what it looks at."""
    for code, argument in items:
        if code is op.SUBPATTERN:
            yield from _demanded(_items(argument[3]))
        elif code is op.ASSERT and argument[0] < 0:
            yield from _demanded(_items(argument[1]))
        elif not (part := _part((code, argument))).nullable:
            yield part.every


def _deep(items: Items) -> Iterator[Part]:
    for item in items:
        yield _part(item)
        for inner in _inner(item):
            yield from _deep(inner)


def _branches(items: Items) -> Iterator[Sequence[Any]]:
    for code, argument in items:
        if code is op.BRANCH:
            yield argument[1]
        elif code is op.SUBPATTERN:
            yield from _branches(_items(argument[3]))


def _sequence(items: Items) -> Part:
    first, every, nullable = _EMPTY, _EMPTY, True
    for part in map(_part, items):
        first |= part.first if nullable else _EMPTY
        every |= part.every
        nullable = nullable and part.nullable
    return Part(first, every, nullable)


def _part(item: tuple[Any, Any]) -> Part:
    code, argument = item
    if code in _REPEATS:
        least, most, body = argument
        inner = _sequence(_items(body))
        varies, endless = most > 1 and least != most, most is op.MAXREPEAT
        return Part(inner.first, inner.every, least == 0 or inner.nullable, varies, endless)
    if code is op.SUBPATTERN:
        return _group(_items(argument[3]))
    if code is op.BRANCH:
        parts = [_sequence(_items(branch)) for branch in argument[1]]
        first, every = _EMPTY.union(*(part.first for part in parts)), _EMPTY.union(*(part.every for part in parts))
        return Part(first, every, any(each.nullable for each in parts))
    if code in {op.AT, op.ASSERT, op.ASSERT_NOT}:
        return Part(_EMPTY, _EMPTY, nullable=True)
    taken = _characters(code, argument)
    return Part(taken, taken, nullable=False)


def _group(items: Items) -> Part:
    """A group of one repetition is that repetition."""
    return _part(items[0]) if len(items) == 1 else _sequence(items)


def _characters(code: Any, argument: Any) -> frozenset[str]:
    if code is op.LITERAL:
        return frozenset([chr(argument)])
    if code is op.NOT_LITERAL:
        return ALPHABET - {chr(argument)}
    if code is op.ANY:
        return ALPHABET
    if code is op.RANGE:
        return frozenset(each for each in ALPHABET if argument[0] <= ord(each) <= argument[1])
    if code is op.CATEGORY:
        return frozenset(each for each in ALPHABET if re.match(CATEGORIES[argument], each))
    if code is op.IN:
        taken = _EMPTY.union(*(_characters(*each) for each in argument if each[0] is not op.NEGATE))
        return ALPHABET - taken if argument[0][0] is op.NEGATE else taken
    raise ValueError(f"{code} is not known here; use a plainer expression")
