"""The hash chain of one saga: each record's hash covers the one before it, so that none can be altered or left out.

    hash = SHA-256( previous hash, empty for the first
                    || topic in UTF-8 || 0x00
                    || partition (4 bytes) || offset (8) || recorded milliseconds (8) || length of the headers (4)
                    || headers as the audit log stores them || value )

Integers are unsigned and big-endian. Nothing in it comes from the clock of whoever writes it, so a rebuild from the
topic gives the same hashes.
"""

import hashlib
import struct
from typing import Final

from infra.codec import Record

_PLACE: Final = struct.Struct(">IQQI")


def link(previous: bytes, record: Record, headers: str) -> bytes:
    """Give the hash of `record` after `previous`; `headers` is what `dump_headers` makes of the record's."""
    written = headers.encode()
    place = _PLACE.pack(record.partition, record.offset, max(record.recorded_ms, 0), len(written))
    return hashlib.sha256(b"%s%s\0%s%s%s" % (previous, record.topic.encode(), place, written, record.value)).digest()
