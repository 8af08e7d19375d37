"""What an operator may pause: a paused account's trades stop before their next step forward; none is taken back."""

from collections.abc import Sequence

from tradesaga.consumers.context import StepContext
from tradesaga.schemas.messages.trade import TradeRequested


def account_of(ctx: StepContext) -> Sequence[tuple[str, str]]:
    """Return the pause scopes of a saga: its account."""
    request = ctx.find(TradeRequested)
    return [("account", request.account)] if request is not None else []
