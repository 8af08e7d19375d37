"""Verifies an export with nothing but the standard library and Ed25519: exit 1 if red.

`independent.py FOLDER EXPORT_KEY SEAL_KEY...`: public keys as other tools of this format take them, name+id+key in
base64. It follows the README of the export and shares no line with the product: an examiner could have written it.
"""

import base64
import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Chain = tuple[str, int, str]
Subtree = tuple[int, int, bytes]  # first leaf, level, root


def sha256(data: bytes) -> bytes:
    """Hash."""
    return hashlib.sha256(data).digest()


def lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def opened(note: str, keys: list[str]) -> str:
    """Give the text of a note that a known key has signed."""
    text, _, signatures = note.rpartition("\n\n")
    text += "\n"
    for line in signatures.splitlines():
        _, name, signature = line.split(" ")
        raw = base64.b64decode(signature)
        for known, key_id, key in (each.split("+", 2) for each in keys):
            if (known, bytes.fromhex(key_id)) == (name, raw[:4]):
                Ed25519PublicKey.from_public_bytes(base64.b64decode(key)[1:]).verify(raw[4:], text.encode())
                return text
    raise SystemExit("no known key has signed: " + text.split("\n")[0])


def member(line: dict[str, Any], name: str) -> bytes | None:
    """Give a record's key or value."""
    if name + "_base64" in line:
        return base64.b64decode(line[name + "_base64"])
    return None if line[name] is None else line[name].encode()


def spelled(told: Any) -> bytes | None:
    """Read a header's name or value."""
    return told.encode() if isinstance(told, str) else base64.b64decode(told["base64"]) if told is not None else None


def headers_of(text: str) -> list[tuple[bytes | None, bytes | None]]:
    """Read a record's headers, in their order."""
    pairs: Any = json.loads(text)
    pairs = pairs.items() if text.startswith("{") else pairs
    return [(spelled(name), spelled(value)) for name, value in pairs]


def hash_of(line: dict[str, Any], previous: bytes) -> bytes:
    """Compute the hash of a record behind another."""
    place = line["partition"], line["offset"]
    if len(line["hash"]) == 64:
        headers = line["headers"].encode()
        packed = struct.pack(">IQQI", *place, max(line["recorded_ms"], 0), len(headers))
        return sha256(previous + line["topic"].encode() + b"\0" + packed + headers + (member(line, "value") or b""))
    pairs = headers_of(line["headers"])
    names = [name or b"" for name, _ in pairs]
    values = [sha256(value) if name == b"ts_context" and value is not None else value for name, value in pairs]
    fields = [previous, line["topic"].encode(), member(line, "key"), member(line, "value"), *values]
    times = line["recorded_ms"], line.get("skipped", 0)
    data = b"tradesaga leaf 2\n" + struct.pack(">iqqqI", *place, *times, len(names))
    data += b"".join(struct.pack(">I", len(name)) for name in names) + b"".join(names)
    data += b"".join(struct.pack(">i", -1 if field is None else len(field)) for field in fields)
    return b"\2" + sha256(data + b"".join(field or b"" for field in fields))


def record_hash(line: dict[str, Any], heads: dict[Chain, tuple[int, bytes]]) -> bytes:
    """Give the hash of a record, behind the one before of its saga."""
    chain = (line["topic"], line["partition"], line["saga_id"])
    seq, previous = heads.get(chain, (0, b""))
    if "previous" in line and chain not in heads:
        seq, previous = line["seq"] - 1, bytes.fromhex(line["previous"])
    assert line["seq"] in {None, seq + 1}, f"{chain}: record {line['seq']} after {seq}"
    found = hash_of(line, previous if line["seq"] is not None else b"")
    assert found.hex() == line["hash"], f"{line['topic']}[{line['partition']}] offset {line['offset']} is altered"
    if line["seq"] is not None:
        heads[chain] = (line["seq"], found)
    return found


def root_of(pieces: list[Subtree]) -> tuple[int, str]:
    """Put subtrees together, as RFC 6962 does; give the size and the root."""
    stack: list[tuple[int, bytes]] = []
    for leaf, first, piece in sorted(pieces):
        assert leaf == sum(1 << level for level, _ in stack), f"leaf {leaf} is not the next one"
        level, root = first, piece
        while stack and stack[-1][0] == level:
            level, root = level + 1, sha256(b"\1" + stack.pop()[1] + root)
        stack.append((level, root))
    size, root = sum(1 << level for level, _ in stack), stack.pop()[1]
    while stack:
        root = sha256(b"\1" + stack.pop()[1] + root)
    return size, base64.b64encode(root).decode()


def main(folder: Path, export_key: str, keys: list[str]) -> str:
    """Check it all; whatever is wrong ends the program."""
    text = (folder / "manifest.json").read_bytes()
    signed = opened((folder / "manifest.note").read_text(), [export_key])
    assert signed.splitlines()[1] == "manifest.json sha256 " + sha256(text).hex(), "the manifest is altered"
    manifest = json.loads(text)
    for file in manifest["files"]:
        assert sha256((folder / file["path"]).read_bytes()).hex() == file["sha256"], file["path"] + " is altered"
    pieces: dict[tuple[str, int], list[Subtree]] = {}
    heads: dict[Chain, tuple[int, bytes]] = {}
    formats: dict[tuple[str, int], list[tuple[int, bool]]] = {}
    before: dict[str, Any] = {}
    for line in lines(folder / "events.jsonl"):
        place = (line["topic"], line["partition"])
        if before and (*place, line["leaf"]) == (before["topic"], before["partition"], before["leaf"] + 1):
            assert line["offset"] - line.get("skipped", 0) == before["offset"] + 1, f"{place}: offsets are missing"
        before = line
        formats.setdefault(place, []).append((line["offset"], len(line["hash"]) == 66))
        leaf = (line["leaf"], 0, sha256(b"\0" + record_hash(line, heads)))
        pieces.setdefault((line["topic"], line["partition"]), []).append(leaf)
    for line in lines(folder / "proofs.jsonl"):
        subtree = (line["leaf"], line["level"], bytes.fromhex(line["root"]))
        pieces.setdefault((line["topic"], line["partition"]), []).append(subtree)
    last = {line["origin"]: opened(line["note"], keys).split("\n") for line in lines(folder / "checkpoints.jsonl")}
    for log in manifest["logs"]:
        origin, size, root = last[log["origin"]][:3]
        stated = next(
            (line.split(" from ")[1] for line in last[log["origin"]] if line.startswith("leaf-format 2")), None
        )
        begins = formats.get((log["topic"], log["partition"]), [])
        assert all((at >= int(stated)) == new if stated else not new for at, new in begins), f"{origin}: hash formats"
        assert (int(size), root) == root_of(pieces.pop((log["topic"], log["partition"]))), f"{origin} is altered"
    assert not pieces, f"there are records of no log: {list(pieces)}"
    open_end = manifest["query"]["to_ms"] is not None or manifest["not_yet_sealed"]
    for line in lines(folder / "sagas.jsonl"):
        seq, head = heads.pop((line["topic"], line["partition"], line["saga_id"]))
        assert (seq, head.hex()) == (line["seq"], line["head"]) or (open_end and seq < line["seq"]), "a saga is cut"
    assert not heads, "a saga has no line"
    return f"{manifest['records']} records are what was sealed"


if __name__ == "__main__":
    sys.stdout.write(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]) + "\n")
