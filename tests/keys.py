"""The keys of request hashes for doors that a test runs by itself, and those that stored starts may be of."""

from pathlib import Path
from typing import Final

from tradesaga.infra.starts.request_keys import ensure_request_keys
from tradesaga.schemas.identity import RequestKey, RequestKeys, request_hash
from tradesaga.schemas.messages.message import Message

KEYS: Final = RequestKeys.of(bytes(32))
_OLD, _NEW, _LOST = (RequestKey(bytes([number]) * 32) for number in (1, 2, 3))


class Unkeyed(RequestKeys):
    """Hashes as releases did before they had keys."""

    def hash(self, request: Message) -> str:
        """Return the unkeyed hash."""
        return request_hash(request)


HELD: Final = {"unkeyed": Unkeyed([_OLD]), "older key": RequestKeys([_OLD]), "key not here": RequestKeys([_LOST])}
"""The keys that a start may have been stored under before `ROTATED` were this door's."""
ROTATED: Final = RequestKeys([_NEW, _OLD])


def keys_in(folder: Path, keys: RequestKeys | None = None) -> Path:
    """Make a file of keys in a folder, as `tradesaga migrate` does or with these keys; returns its path."""
    path = folder / "request.keys"
    if keys is None:
        ensure_request_keys(path)
    else:
        path.write_text("".join(f"hmac-sha256:{key.id}:{key.secret.hex()}\n" for key in keys.keys))
    return path
