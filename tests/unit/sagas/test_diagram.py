"""The drawings are those that were looked at; a changed definition shows as a changed picture."""

from pathlib import Path

import pytest

from tests.unit.sagas.shop import promises, shop
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.diagram import draw_dot, draw_mermaid
from tradesaga.sagas.trade.definition import trade

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("saga", [trade, shop, promises], ids=lambda saga: saga.name)
def test_the_drawing_is_the_golden_one(saga: AnySaga) -> None:
    """Steps, refusals, compensations and the pivot, in Mermaid and in Graphviz."""
    assert draw_mermaid(saga) == (GOLDEN / f"{saga.name}.mmd").read_text()
    assert draw_dot(saga) == (GOLDEN / f"{saga.name}.dot").read_text()
