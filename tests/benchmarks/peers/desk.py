"""The steps of the real trade for the peers: the product's own tables and postings, and its venue, one trade at a time.

Runs in the peers' environment, so it imports nothing of the product. Each step that writes does so once, however often
it is called: its rows have the trade's id, and the register of orders its state.
"""

import hashlib
import hmac
import json
import threading
import time
from decimal import ROUND_UP, Decimal
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID, uuid5

NAMESPACE = UUID("6f1c1b7e-5b0a-5d5e-9d3b-3a7c6f0e8a11")
VENUE = "paper"
PATIENCE = 10.0
_LISTING = """
SELECT i.tick, i.collar, i.fee_rate, i.reference_price FROM account a JOIN instrument i ON i.venue = a.venue
WHERE a.id = %s AND a.status = 'open' AND i.symbol = %s
"""
_REGISTER = """
INSERT INTO order_register (saga_id, account, venue, symbol, side, quantity, order_type, worst_price, time_in_force,
    quote, hold_asset, hold, notional)
VALUES (%s, %s, 'paper', %s, 'BUY', %s, 'MARKET', %s, 'IOC', %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
_POST = """
INSERT INTO ledger_entry (saga_id, step, direction, owner, asset, kind, amount)
VALUES {} ON CONFLICT DO NOTHING
"""
_MARK = "UPDATE order_register SET status = %s, updated_at = clock_timestamp() WHERE saga_id = %s AND status = %s"
_LIMITS = """
SELECT e.exposure + %s <= a.max_exposure AND e.open_orders < a.max_open_orders
FROM risk_exposure e JOIN account a ON a.id = e.account WHERE e.account = %s AND e.asset = %s FOR UPDATE OF e
"""
_EXPOSE = """
UPDATE risk_exposure SET exposure = exposure + %s, open_orders = open_orders + %s WHERE account = %s AND asset = %s
"""


class RefusedError(Exception):
    """A step refuses the trade."""


def identify(order: dict[str, str]) -> str:
    """Return the id that the product computes for the same request."""
    name = json.dumps(["trade", order["account"], order["idempotency_key"]], separators=(",", ":"))
    return str(uuid5(NAMESPACE, name))


def validate(sql: Any, saga: str, order: dict[str, str]) -> dict[str, str]:
    """Step 1: compute what the order may cost, and register it."""
    sql.execute(_LISTING, (order["account"], order["symbol"]))
    if (listing := sql.fetchone()) is None:
        raise RefusedError("unknown account or symbol")
    tick, collar, fee_rate, price = listing
    worst = (price * (1 + collar) / tick).quantize(Decimal(1), ROUND_UP) * tick
    notional = Decimal(order["quantity"]) * worst
    hold = (notional * (1 + fee_rate)).quantize(Decimal("0.00000001"), ROUND_UP)
    base, quote = order["symbol"].split("/")
    sql.execute(
        _REGISTER, (saga, order["account"], order["symbol"], order["quantity"], worst, quote, quote, hold, notional)
    )
    amounts = {"worst_price": worst, "hold": hold, "notional": notional}
    return {"base": base, "quote": quote, **{name: f"{amount:f}" for name, amount in amounts.items()}}


def reserve(sql: Any, saga: str, order: dict[str, str], terms: dict[str, str]) -> None:
    """Step 2: hold the amount; the table's own check refuses what is not available."""
    hold, owner, asset = Decimal(terms["hold"]), order["account"], terms["quote"]
    _post(sql, saga, "reserve_funds", [(owner, asset, "available", -hold), (owner, asset, "held", hold)])


def check_risk(sql: Any, saga: str, order: dict[str, str], terms: dict[str, str]) -> None:
    """Step 3: add the order to its account's exposure."""
    sql.execute(_MARK, ("COUNTED", saga, "VALIDATED"))
    if not sql.rowcount:
        return
    sql.execute(_LIMITS, (Decimal(terms["notional"]), order["account"], terms["quote"]))
    if not sql.fetchone()[0]:
        raise RefusedError("limit breached")
    sql.execute(_EXPOSE, (Decimal(terms["notional"]), 1, order["account"], terms["quote"]))


def settle(sql: Any, saga: str, order: dict[str, str], terms: dict[str, str], fill: dict[str, str]) -> None:
    """Step 6: book the fill and its fee, release the rest of the hold, and take the order out of the exposure."""
    sql.execute(_MARK, ("SETTLED", saga, "COUNTED"))
    if not sql.rowcount:
        return
    hold, owner, venue = Decimal(terms["hold"]), order["account"], f"@{VENUE}"
    spent, received, fee = (Decimal(fill[name]) for name in ("spent", "received", "fee"))
    base, quote = terms["base"], terms["quote"]
    moves = [
        (owner, quote, "held", -hold), (owner, quote, "available", hold - spent - fee),
        (venue, quote, "clearing", spent), (venue, base, "clearing", -received), (owner, base, "available", received),
        (venue, quote, "fees", fee),
    ]  # fmt: skip
    _post(sql, saga, "settle_trade", moves)
    sql.execute(_EXPOSE, (-Decimal(terms["notional"]), -1, owner, quote))


def take_back(sql: Any, saga: str, order: dict[str, str], terms: dict[str, str]) -> None:
    """Compensate steps 3 to 1 of a trade that was refused."""
    owner, asset, hold = order["account"], terms["quote"], Decimal(terms["hold"])
    sql.execute(_MARK, ("RELEASED", saga, "COUNTED"))
    if sql.rowcount:
        sql.execute(_EXPOSE, (-Decimal(terms["notional"]), -1, owner, asset))
    sql.execute("SELECT 1 FROM ledger_entry WHERE saga_id = %s AND step = 'reserve_funds'", (saga,))
    if sql.fetchone():
        _post(sql, saga, "release_funds", [(owner, asset, "available", hold), (owner, asset, "held", -hold)])
    sql.execute(_MARK, ("WITHDRAWN", saga, "RELEASED"))
    sql.execute(_MARK, ("WITHDRAWN", saga, "VALIDATED"))


def _post(sql: Any, saga: str, step: str, moves: list[tuple[str, str, str, Decimal]]) -> None:
    # Locks are taken in one order, as the product takes them.
    rows = sorted(move for move in moves if move[3])
    values = ", ".join(["(%s, %s, 'forward', %s, %s, %s, %s)"] * len(rows))
    sql.execute(_POST.format(values), [value for row in rows for value in (saga, step, *row)])


class Venue:
    """The paper venue over kept connections, one for each thread."""

    def __init__(self, url: str, key: str, secret: str) -> None:
        """Remember the address and the account."""
        self._address, self._key, self._secret = urlsplit(url).netloc, key, secret.encode()
        self._local = threading.local()

    def place(self, saga: str, order: dict[str, str], terms: dict[str, str]) -> dict[str, str]:
        """Step 4: place the order, immediate or cancel at its worst price; the answer has its fills."""
        parameters = {
            "symbol": terms["base"] + terms["quote"], "side": "BUY", "type": "LIMIT", "timeInForce": "IOC",
            "quantity": order["quantity"], "price": terms["worst_price"],
            "newClientOrderId": "ts" + saga.replace("-", ""), "newOrderRespType": "FULL",
        }  # fmt: skip
        answer = self._call("POST", parameters)
        fee = sum((Decimal(fill["commission"]) for fill in answer["fills"]), Decimal(0))
        return {
            "status": answer["status"], "received": answer["executedQty"], "spent": answer["cummulativeQuoteQty"],
            "fee": f"{fee:f}",
        }  # fmt: skip

    def _call(self, method: str, parameters: dict[str, str]) -> dict[str, Any]:
        query = urlencode({**parameters, "timestamp": str(int(1000 * time.time())), "recvWindow": "5000"})
        query += "&signature=" + hmac.new(self._secret, query.encode(), hashlib.sha256).hexdigest()
        connection = getattr(self._local, "connection", None) or HTTPConnection(self._address, timeout=PATIENCE)
        self._local.connection = connection
        try:
            connection.request(method, f"/api/v3/order?{query}", headers={"X-MBX-APIKEY": self._key})
            answer = connection.getresponse()
            body = json.loads(answer.read())
        except (OSError, HTTPException):
            self._local.connection = None
            raise
        if answer.status != 200:
            raise RefusedError(str(body))
        return body


def confirm(fill: dict[str, str]) -> dict[str, str]:
    """Step 5: refuse what is not filled. The fill is in the answer to the order: the peers wait for no report."""
    if fill["status"] != "FILLED":
        raise RefusedError(f"the order is {fill['status']}")
    return fill
