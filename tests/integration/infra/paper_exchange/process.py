"""A real paper venue in a process of its own, for tests: started, killed, started again on the same ledger."""

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import new as hmac
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import httpx

ADMIN_KEY = "an-admin-key"
KEY, SECRET = "paper-desk-key", "paper-desk-secret"
STILL = {"speed": 0.0}
# Not all the other commands too.
QUICKLY = "import typer; from tradesaga.infra.paper_exchange.command import venue; typer.run(venue)"


def small_market(folder: Path, closes: Sequence[str] = ("1.10000", "1.10000", "1.09000", "1.12000")) -> dict[str, Any]:
    """Configure one market with a tape of one's own and 1000 at each of two levels, holding still."""
    tape = folder / "tape.csv"
    rows = [f"2020-01-01 {hour:02}:00:00,{c},{c},{c},{c},1" for hour, c in enumerate(closes)]
    tape.write_text("\n".join([",Open,High,Low,Close,Volume", *rows]) + "\n")
    listing = {
        "symbol": "EURUSD", "base": "EUR", "quote": "USD", "tape": str(tape), "interval": "1h", "first_bar": 0,
        "tick": "0.00001", "lot": "1", "minimum_quantity": "1", "maximum_quantity": "1000000",
        "maximum_price": "1000", "minimum_notional": "10", "levels": 2, "level_quantity": "1000",
    }  # fmt: skip
    desk = {"name": "desk", "key": KEY, "secret": SECRET, "balances": {"USD": "100000", "EUR": "100000"}}
    return {"listings": [listing], "accounts": [desk], **STILL}


@dataclass(frozen=True)
class Answer:
    """A status and a JSON body."""

    status: int
    body: Any

    @property
    def code(self) -> int:
        """Binance's error code."""
        return int(self.body["code"])


@dataclass
class PaperProcess:
    """One venue's process; `port` stays the same over restarts. `whole` goes through the console script's module."""

    folder: Path
    config: Mapping[str, Any]
    options: Sequence[str] = ()
    port: int = 0
    whole: bool = False
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def start(self) -> Self:
        """Start the process and wait until it listens."""
        file = self.folder / "config.json"
        file.write_text(json.dumps(self.config))
        program = ["-m", "tradesaga.infra.cli.entry", "venue"] if self.whole else ["-c", QUICKLY]
        command = [sys.executable, *program, "--dir", str(self.folder / "ledger")]
        options = ["--port", str(self.port), "--config", str(file), "--admin-key", ADMIN_KEY, *self.options]
        with (self.folder / "stderr.log").open("a") as errors:
            self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the venue did not start: {self.errors}")
        self.port = int(json.loads(line)["venue"].rpartition(":")[2])
        return self

    @property
    def url(self) -> str:
        """Where the venue listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def errors(self) -> str:
        """What the process has written to stderr."""
        return (self.folder / "stderr.log").read_text()

    async def fill_disk(self, largest_file: int) -> int:
        """Let no file grow beyond so many bytes, as if the disk were full; wait for the end, and give its exit code."""
        assert self.process is not None
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (largest_file, largest_file))
        await asyncio.to_thread(self.process.wait, 100)
        self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """End the process as a loss of power would."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate()

    def stop(self) -> int:
        """End the process as an operator would, and give its exit code."""
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
        return self.process.returncode

    async def admin(self, method: str, path: str, body: object = None) -> Any:
        """Call an admin endpoint."""
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            response = await client.request(method, f"/paper/{path}", json=body, headers={"x-paper-admin": ADMIN_KEY})
        return response.json()

    async def step(self, bars: int = 1) -> None:
        """Close bars."""
        await self.admin("POST", "market", {"step": bars})

    async def fault(self, **rule: object) -> None:
        """Put a fault in force."""
        answer = await self.admin("POST", "faults", rule)
        assert "ids" in answer, answer

    async def ledger(self) -> dict[str, Any]:
        """Read the whole ledger."""
        return await self.admin("GET", "ledger")

    async def call(self, method: str, path: str, key: str = KEY, secret: str = SECRET, **values: Any) -> Answer:
        """Send a signed request, with ccxt out of the way; None leaves a parameter out."""
        given = {"timestamp": time.time_ns() // 1_000_000, **values}
        query = urlencode({name: value for name, value in given.items() if value is not None})
        signature = hmac(secret.encode(), query.encode(), sha256).hexdigest()
        return await self.send(method, f"{path}?{query}&signature={signature}", key)

    async def send(self, method: str, path: str, key: str | None = KEY, content: bytes | None = None) -> Answer:
        """Send a request as it is."""
        headers = {} if key is None else {"x-mbx-apikey": key}
        if content is not None:
            headers["content-type"] = "application/x-www-form-urlencoded"
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            response = await client.request(method, f"/api/v3/{path}", headers=headers, content=content)
        return Answer(response.status_code, response.json())

    async def text(self, path: str) -> str:
        """Read a page that is no JSON."""
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            return (await client.get(path)).text

    async def place(self, name: str, quantity: object = 100, price: object = None, **values: Any) -> Answer:
        """Place an order to buy; a limit order if there is a price."""
        limit: dict[str, Any] = (
            {"type": "MARKET"} if price is None else {"type": "LIMIT", "price": price, "timeInForce": "GTC"}
        )
        order: dict[str, Any] = {
            "symbol": "EURUSD",
            "side": "BUY",
            "quantity": quantity,
            "newClientOrderId": name,
            **limit,
        }
        return await self.call("POST", "order", **{**order, **values})


async def soon(condition: Callable[[], Awaitable[bool]], patience: float = 60.0) -> None:
    """Wait until an async condition holds."""
    deadline = asyncio.get_running_loop().time() + patience
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)


async def listens(paper: PaperProcess) -> bool:
    """Say whether one listens to the venue."""
    return "listeners 1.0" in await paper.text("/metrics")
