"""User data streams: listeners get durable events in order; a listener that cannot keep up is disconnected."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tradesaga.infra.paper_exchange.records import Change
from tradesaga.infra.paper_exchange.views import Json, show_position, show_report

_BACKLOG: Final = 20_000
_LIFETIME: Final = 3_600 * 1_000_000_000


@dataclass(eq=False, slots=True)
class Listener:
    """One open stream; None in its queue ends it."""

    account: str
    queue: asyncio.Queue[Json | None] = field(default_factory=lambda: asyncio.Queue[Json | None](_BACKLOG))

    def send(self, message: Json) -> bool:
        """Queue a message; return False if the listener is too far behind."""
        if self.queue.full():
            return False
        self.queue.put_nowait(message)
        return True

    def end(self) -> None:
        """End the stream now and drop events not sent yet."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(None)


class Streams:
    """All open streams, and the listen keys that open them (valid for an hour from their last use)."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[Listener]] = {}
        self._keys: dict[str, tuple[str, int]] = {}
        self.published: Counter[str] = Counter()

    @property
    def listening(self) -> int:
        """The number of open streams."""
        return sum(map(len, self._listeners.values()))

    def open(self, account: str) -> Listener:
        """Open a stream; `close` it when done."""
        listener = Listener(account)
        self._listeners.setdefault(account, set()).add(listener)
        return listener

    def close(self, listener: Listener) -> None:
        """Close a stream."""
        self._listeners.get(listener.account, set()).discard(listener)

    def disconnect(self, account: str | None = None) -> int:
        """End all streams, or those of one account; return how many."""
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
                self._send(event.order.ticket.account, show_report(event))
            for account in {event.order.ticket.account for event in change.events}:
                held = {asset: one for (name, asset), one in change.holdings.items() if name == account}
                if held:
                    self._send(account, show_position(held, change.time))

    def issue_key(self, account: str, now: int) -> str:
        """Return the account's listen key, which stays the same as long as it is valid."""
        self._keys = {key: value for key, value in self._keys.items() if value[1] > now}
        for key, (owner, _) in self._keys.items():
            if owner == account:
                self.renew_key(key, now)
                return key
        key = secrets.token_urlsafe(45)
        self._keys[key] = (account, now + _LIFETIME)
        return key

    def owner(self, key: str, now: int) -> str | None:
        """Return the account of a listen key, or None if the key is not valid."""
        account, until = self._keys.get(key, (None, 0))
        return account if until > now else None

    def renew_key(self, key: str, now: int) -> None:
        """Extend a listen key by an hour."""
        self._keys[key] = (self._keys[key][0], now + _LIFETIME)

    def drop_key(self, key: str) -> None:
        """Revoke a listen key."""
        self._keys.pop(key, None)

    def _send(self, account: str, message: Json) -> None:
        for listener in tuple(self._listeners.get(account, ())):
            if not listener.send(message):
                listener.end()
                self.close(listener)
