"""A table for a terminal and for a document, in which it stands between two marks."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from rich.table import Table

_BLOCK: Final = re.compile(r"(<!-- ([a-z]+): made by make scale-out -->\n).*?(<!-- end -->)", re.DOTALL)


class Sheet(NamedTuple):
    """One table."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def markdown(self) -> str:
        """Write it for the document."""
        lines = [self.headings, ["---"] + ["---:"] * (len(self.headings) - 1), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    @property
    def table(self) -> Table:
        """Draw it for a terminal."""
        table = Table(title=self.title, title_justify="left")
        for place, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if place else "left")
        for row in self.rows:
            table.add_row(*(cell.replace("**", "") for cell in row))
        return table


def renew(text: str, made: Mapping[str, Sheet]) -> str:
    """Put the tables between their marks. Raises ValueError where the document lacks one, or asks for one unknown."""
    asked = {name for _, name, _ in _BLOCK.findall(text)}
    if asked != set(made):
        raise ValueError(f"the document has {sorted(asked)}, and there are {sorted(made)}")
    return _BLOCK.sub(lambda found: f"{found[1]}{made[found[2]].markdown}\n{found[3]}", text)


def number(value: float) -> str:
    """Write three figures that count."""
    if value == 0:
        return "0"
    shown = float(f"{value:.3g}")
    return f"{shown:,.0f}" if abs(shown) >= 100 else f"{shown:g}"
