"""A drawing as SVG: boxes, texts, lines and arrows, in the order in which they are added."""

from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

FONT: Final = "DejaVu Sans, Verdana, sans-serif"
MONO: Final = "DejaVu Sans Mono, Menlo, Consolas, monospace"
INK: Final = "#1f2933"
GREY: Final = "#7b8794"
GREEN: Final = "#0b6e4f"
RED: Final = "#b3261e"
BLUE: Final = "#4a6fa5"
WHITE: Final = "#ffffff"


class Drawing:
    """A white sheet of `width` by `height` pixels; y grows downwards."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._root = Element(
            "svg", xmlns="http://www.w3.org/2000/svg", width=str(width), height=str(height),
            viewBox=f"0 0 {width} {height}", role="img",
        )  # fmt: skip
        SubElement(self._root, "title").text = title
        heads = SubElement(self._root, "defs")
        for colour in (INK, GREY, GREEN, RED):
            head = SubElement(
                heads, "marker", id=f"head-{colour[1:]}", viewBox="0 0 10 10", refX="9", refY="5",
                markerWidth="7", markerHeight="7", orient="auto-start-reverse",
            )  # fmt: skip
            SubElement(head, "path", d="M0,1 L10,5 L0,9 z", fill=colour)
        self.box(0, 0, width, height, fill=WHITE, stroke="none", radius=0)

    def box(
        self, x: float, y: float, width: float, height: float, *, fill: str = WHITE, stroke: str = INK,
        radius: float = 4, thick: float = 1,
    ) -> None:  # fmt: skip
        """Add a rectangle."""
        SubElement(
            self._root, "rect", x=_n(x), y=_n(y), width=_n(width), height=_n(height), rx=_n(radius),
            attrib={"fill": fill, "stroke": stroke, "stroke-width": _n(thick)},
        )  # fmt: skip

    def text(
        self, x: float, y: float, text: str, *, size: float = 13, colour: str = INK, anchor: str = "start",
        font: str = FONT, bold: bool = False,
    ) -> None:  # fmt: skip
        """Add a line of text; `y` is its baseline, `anchor` one of start, middle, end."""
        attributes = {"font-family": font, "font-size": _n(size), "fill": colour, "text-anchor": anchor}
        if bold:
            attributes["font-weight"] = "bold"
        SubElement(self._root, "text", x=_n(x), y=_n(y), attrib=attributes).text = text

    def label(self, x: float, y: float, text: str, *, colour: str = INK) -> None:
        """Add a text on a line, centred at `x`, with a white ground that interrupts the line."""
        width = 7.1 * len(text) + 8
        self.box(x - width / 2, y - 8, width, 16, stroke="none", radius=0)
        self.text(x, y + 4, text, size=12, colour=colour, anchor="middle")

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *, colour: str = GREY, dashes: str = "", thick: float = 1,
        arrow: bool = False,
    ) -> None:  # fmt: skip
        """Add a line, or an arrow to its second end; the colour of an arrow is one that has a head."""
        attributes = {"stroke": colour, "stroke-width": _n(thick)}
        if dashes:
            attributes["stroke-dasharray"] = dashes
        if arrow:
            attributes["marker-end"] = f"url(#head-{colour[1:]})"
        SubElement(self._root, "line", x1=_n(x1), y1=_n(y1), x2=_n(x2), y2=_n(y2), attrib=attributes)

    def dot(self, x: float, y: float, radius: float, *, fill: str = INK) -> None:
        """Add a filled circle."""
        SubElement(self._root, "circle", cx=_n(x), cy=_n(y), r=_n(radius), fill=fill)

    def badge(self, x: float, y: float, number: int, *, fill: str = GREEN) -> None:
        """Add a number in a circle."""
        self.dot(x, y, 9, fill=fill)
        self.text(x, y + 4, str(number), size=11, colour=WHITE, anchor="middle", bold=True)

    def render(self) -> str:
        """Return the drawing as the text of a file."""
        indent(self._root, " ")
        return tostring(self._root, encoding="unicode") + "\n"


def _n(value: float) -> str:
    return f"{value:g}"
