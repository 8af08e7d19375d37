"""What breaks first, drawn: the limits at each step on the way up, on a scale of powers of ten."""

import math
from typing import Final

from tests.benchmarks.plot import WIDTH, Bar, chart
from tests.benchmarks.scale_out.costs import Costs, Site
from tests.benchmarks.scale_out.plan import stages
from tests.benchmarks.scale_out.sheet import number

FIRST: Final = "#b3261e"
OTHERS: Final = "#4a6fa5"
LEFT: Final = 350


def draw(costs: Costs, site: Site) -> str:
    """Draw one chart a step; what gives out first is red."""
    parts, top, steps = list[str](), 10, stages(costs, site)
    decades = math.ceil(math.log10(max(limit.rate for _, limits in steps for limit in limits)))
    for title, limits in steps:
        bars = [
            Bar(limit.name, limit.rate, number(limit.rate), FIRST if place == 0 else OTHERS)
            for place, limit in enumerate(limits)
        ]
        drawn, height = chart(f"{title}: limits in sagas per second", bars, top, LEFT, decades)
        parts.append(drawn)
        top += height
    style = "font-family:system-ui,sans-serif;font-size:12px;background:#fff"
    body = "".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" style="{style}">{body}</svg>\n'
