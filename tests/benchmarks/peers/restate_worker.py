# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false, reportUnknownParameterType=false
"""The saga on Restate: a service that hypercorn serves, from the peers' environment."""

from restate import Context, Service, app
from restate.exceptions import TerminalError

STEPS = ("validate_order", "reserve_funds", "place_order", "confirm_fill", "settle")
trade = Service("Trade")


async def answer() -> dict[str, str]:
    """Answer."""
    return {"qty": "100", "px": "101.25"}


async def refuse() -> dict[str, str]:
    """Refuse for good."""
    raise TerminalError("refused")


@trade.handler()
async def run(ctx: Context, kind: str) -> str:
    """Run the steps; after a refusal take back what was done, last first."""
    done: list[str] = []
    try:
        for name in STEPS:
            refused = kind == "compensated" and name == "confirm_fill"
            await ctx.run_typed(name, refuse if refused else answer)
            done.append(name)
    except TerminalError:
        for name in reversed(done):
            await ctx.run_typed(f"take back {name}", answer)
        return "ABORTED"
    return "COMPLETED"


application = app([trade])
