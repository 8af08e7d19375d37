"""The rooms of the code: the five packages as layers, what is in each, who imports whom, and one trade's way."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from tests.architecture.sources import PACKAGES, ROOT, imported, shipped_files
from tests.pictures.svg import GREEN, GREY, INK, MONO, RED, Drawing

PAGE: Final = ROOT / "docs" / "architecture.md"
LAYERS: Final = (("producers", "consumers"), ("infra",), ("sagas",), ("schemas",))
"""From the top down; packages side by side do not import each other."""
SHARE: Final = {"producers": 0.3, "consumers": 0.7}
PURPOSE: Final = {
    "producers": "put facts on Kafka",
    "consumers": "read facts from Kafka",
    "infra": "Kafka, PostgreSQL, venues, operation",
    "sagas": "definitions and rules, without I/O",
    "schemas": "messages and topics, without I/O",
}
WIDTH: Final = 1120
MARGIN: Final = 20
PAD: Final = 14
BAND_GAP: Final = 44
BOX_HEIGHT: Final = 30
BOX_GAP: Final = 8
LETTER: Final = 7.9
"""Pixels of a letter of a room's name."""
BADGE: Final = 22
STOP: Final = re.compile(r"^(\d+)\. ", re.MULTILINE)
FILE: Final = re.compile(r"`((?:" + "|".join(PACKAGES) + r")/[\w/.]+)`")
COLOURS: Final = {
    "producers": "#fff4e0", "consumers": "#e8f4ee", "infra": "#eaf0f8", "sagas": "#f3ecf8", "schemas": "#f5f5f5",
}  # fmt: skip


@cache
def rooms() -> Mapping[str, Sequence[str]]:
    """Return each package's rooms: its folders, and its own modules, by name and with their endings."""
    found: dict[str, set[str]] = {package: set() for package in PACKAGES}
    for path in shipped_files():
        package, room, *inside = path.relative_to(ROOT).parts
        if inside or room != "__init__.py":
            found[package].add(f"{room}/" if inside else room)
    return {package: sorted(names, key=lambda name: (not name.endswith("/"), name)) for package, names in found.items()}


@cache
def imports() -> frozenset[tuple[str, str]]:
    """Return which package imports which."""
    return frozenset(
        (path.relative_to(ROOT).parts[0], name.split(".")[1])
        for path in shipped_files()
        for name in imported(path)
        if name.startswith("tradesaga.") and name.split(".")[1] in PACKAGES
    )


def route() -> Iterator[tuple[int, str, str]]:
    """Yield the stops of a trade as the page numbers them: number, package, and each room of which it names a file."""
    text = PAGE.read_text(encoding="utf-8")
    stops = [stop[1] for stop in STOP.finditer(text)]
    for number, body in zip(stops, STOP.split(text)[2::2], strict=True):
        named = [Path(name).parts for name in FILE.findall(body.partition("\n\n")[0])]
        for package, room in dict.fromkeys((parts[0], parts[1]) for parts in named):
            yield int(number), package, room if room.endswith(".py") else f"{room}/"


def draw() -> str:
    """Return the picture."""
    stops: dict[tuple[str, str], list[int]] = {}
    for number, package, room in route():
        stops.setdefault((package, room), []).append(number)
    bands: list[tuple[str, float, float, list[list[tuple[str, float]]]]] = []
    height = 2.0 * MARGIN
    for layer in LAYERS:
        left, tallest = float(MARGIN), 0.0
        for package in layer:
            width = (WIDTH - 2 * MARGIN - (len(layer) - 1) * PAD) * (SHARE[package] if len(layer) > 1 else 1)
            rows = _rows(package, width, stops)
            bands.append((package, left, width, rows))
            left += width + PAD
            tallest = max(tallest, _height(rows))
        height += tallest + BAND_GAP
    sheet = Drawing(WIDTH, int(height), "The packages, their rooms, and one trade's way")
    top = float(MARGIN)
    for number, layer in enumerate(LAYERS):
        of_layer = [band for band in bands if band[0] in layer]
        tallest = max(_height(rows) for *_, rows in of_layer)
        for package, left, width, rows in of_layer:
            _band(sheet, package, (left, top, width, tallest), rows, stops)
            if number + 1 < len(LAYERS):
                _arrow(sheet, package, LAYERS[number + 1][0], left + width / 2, top + tallest)
        top += tallest + BAND_GAP
    _legend(sheet, top - BAND_GAP + 28)
    return sheet.render()


def _rows(package: str, width: float, stops: Mapping[tuple[str, str], Sequence[int]]) -> list[list[tuple[str, float]]]:
    """Lay the rooms of a package out in rows that fit into its band."""
    rows: list[list[tuple[str, float]]] = [[]]
    used = 0.0
    for room in rooms()[package]:
        box = len(room) * LETTER + 2 * 8 + BADGE * len(stops.get((package, room), ()))
        if used + box > width - 2 * PAD:
            rows.append([])
            used = 0
        rows[-1].append((room, box))
        used += box + BOX_GAP
    return rows


def _height(rows: Sequence[Sequence[tuple[str, float]]]) -> float:
    return 34 + len(rows) * (BOX_HEIGHT + BOX_GAP) + PAD - BOX_GAP


def _band(
    sheet: Drawing, package: str, place: tuple[float, float, float, float],
    rows: Sequence[Sequence[tuple[str, float]]], stops: Mapping[tuple[str, str], Sequence[int]],
) -> None:  # fmt: skip
    left, top, width, height = place
    sheet.box(left, top, width, height, fill=COLOURS[package], stroke="#9aa5b1", radius=8)
    sheet.text(left + PAD, top + 23, f"{package}/", size=16, bold=True)
    sheet.text(left + PAD + 11.5 * len(package) + 22, top + 23, PURPOSE[package], colour=GREY)
    for number, row in enumerate(rows):
        x, y = left + PAD, top + 34 + number * (BOX_HEIGHT + BOX_GAP)
        for room, box in row:
            numbers = stops.get((package, room), ())
            sheet.box(x, y, box, BOX_HEIGHT, stroke=GREEN if numbers else "#9aa5b1", thick=2 if numbers else 1)
            sheet.text(x + 8, y + 20, room, size=13, font=MONO)
            for place_, stop in enumerate(numbers):
                sheet.badge(x + box - 14 - BADGE * (len(numbers) - 1 - place_), y + BOX_HEIGHT / 2, stop)
            x += box + BOX_GAP


def _arrow(sheet: Drawing, package: str, below: str, x: float, y: float) -> None:
    """Show that a package imports the one below it, and in red that one below imports it."""
    if (package, below) in imports():
        sheet.line(x, y + 3, x, y + BAND_GAP - 3, colour=INK, thick=2, arrow=True)
        sheet.text(x + 12, y + BAND_GAP / 2 + 4, "imports", colour=GREY)
    if (below, package) in imports():
        sheet.line(x - 20, y + BAND_GAP - 3, x - 20, y + 3, colour=RED, thick=2, arrow=True)


def _legend(sheet: Drawing, y: float) -> None:
    sheet.badge(MARGIN + 9, y, 1)
    sheet.text(MARGIN + 26, y + 4, "where a trade passes, in the order of the list below", size=13)
    sheet.text(WIDTH - MARGIN, y + 4, "a layer may import every layer below it, and none above it", anchor="end")
