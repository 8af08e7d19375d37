"""User data streams: what is durable is told to all who listen, in order; who cannot keep up is cut off."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tradesaga.infra.paper_exchange.records import Change
from tradesaga.infra.paper_exchange.views import Json, show_position, show_report

_BACKLOG: Final = 20_000
_LIFETIME: Final = 3_600 * 1_000_000_000


@dataclass(eq=False, slots=True)
class Listener:
    """One open stream; None in its queue means that it is to end."""

    account: str
    queue: asyncio.Queue[Json | None] = field(default_factory=lambda: asyncio.Queue[Json | None](_BACKLOG))

    def tell(self, message: Json) -> bool:
        """Queue a message; False if the listener is too far behind."""
        if self.queue.full():
            return False
        self.queue.put_nowait(message)
        return True

    def end(self) -> None:
        """End the stream now, dropping events that are not sent yet."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(None)


class Streams:
    """All open streams, and the listen keys that open them (good for an hour from their last use)."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[Listener]] = {}
        self._keys: dict[str, tuple[str, int]] = {}
        self.published: Counter[str] = Counter()

    @property
    def listening(self) -> int:
        """How many streams are open."""
        return sum(map(len, self._listeners.values()))

    def open(self, account: str) -> Listener:
        """Start listening; `close` when done."""
        listener = Listener(account)
        self._listeners.setdefault(account, set()).add(listener)
        return listener

    def close(self, listener: Listener) -> None:
        """Stop listening."""
        self._listeners.get(listener.account, set()).discard(listener)

    def disconnect(self, account: str | None = None) -> int:
        """End all streams, or one account's, and say how many."""
        chosen = [
            one for name, listeners in self._listeners.items() if account in {None, name} for one in tuple(listeners)
        ]
        for listener in chosen:
            listener.end()
        return len(chosen)

    def publish(self, changes: Sequence[Change]) -> None:
        """Send committed events to the listeners."""
        for change in changes:
            for event in change.events:
                self.published[event.execution] += 1
                self._tell(event.order.ticket.account, show_report(event))
            for account in {event.order.ticket.account for event in change.events}:
                held = {asset: one for (name, asset), one in change.holdings.items() if name == account}
                if held:
                    self._tell(account, show_position(held, change.time))

    def issue_key(self, account: str, now: int) -> str:
        """Return the account's listen key; it is the same as long as it is good."""
        self._keys = {key: value for key, value in self._keys.items() if value[1] > now}
        for key, (owner, _) in self._keys.items():
            if owner == account:
                self.renew_key(key, now)
                return key
        key = secrets.token_urlsafe(45)
        self._keys[key] = (account, now + _LIFETIME)
        return key

    def owner(self, key: str, now: int) -> str | None:
        """Return the account that a listen key stands for."""
        account, until = self._keys.get(key, (None, 0))
        return account if until > now else None

    def renew_key(self, key: str, now: int) -> None:
        """Make a listen key good for another hour."""
        self._keys[key] = (self._keys[key][0], now + _LIFETIME)

    def drop_key(self, key: str) -> None:
        """Make a listen key worthless."""
        self._keys.pop(key, None)

    def _tell(self, account: str, message: dict[str, Any]) -> None:
        for listener in tuple(self._listeners.get(account, ())):
            if not listener.tell(message):
                listener.end()
                self.close(listener)
