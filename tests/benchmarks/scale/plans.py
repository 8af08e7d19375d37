"""What a statement has taken, by its plan: the same on a busy machine as on a quiet one, but for the time."""

import json
from collections.abc import Sequence
from typing import Any

from tradesaga.consumers.runtime import processor as step_processor
from tradesaga.consumers.runtime import step_rows
from tradesaga.consumers.saga_log import processor as log_processor
from tradesaga.consumers.saga_log import store

Statement = tuple[str, Sequence[Any]]


def due_statements(participant: Sequence[int], log: Sequence[int], steps: Sequence[str]) -> dict[str, Statement]:
    """Name the statements that find what is due on these lanes, each with its arguments."""
    return {
        "steps: next due": (step_rows.NEXT_DUE, (participant, steps, step_rows.HELD_FROM)),
        "steps: due": (step_rows.LOAD_DUE, (participant, steps, step_processor.DUE_LIMIT)),
        "saga log: next deadline": (store.NEXT_DUE, (log,)),
        "saga log: deadlines": (store.DUE, (log, log_processor.DUE_LIMIT, 0.0)),
    }


def read_plan(told: str) -> dict[str, float]:
    """Give milliseconds, pages and rows from what EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) has told."""
    found = json.loads(told)[0]
    plan = found["Plan"]
    kinds = ("Shared Hit Blocks", "Shared Read Blocks", "Temp Read Blocks", "Temp Written Blocks")
    pages = sum(plan[kind] for kind in kinds)
    return {"milliseconds": found["Execution Time"], "pages": pages, "rows": _handled(plan)}


def _handled(plan: dict[str, Any]) -> float:
    """Give the most rows that any node of a plan has handled, those included that it threw away."""
    own = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return max([own, *(_handled(below) for below in plan.get("Plans", ()))])
