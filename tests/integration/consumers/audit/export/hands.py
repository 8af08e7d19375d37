"""What hostile hands do to an export: each takes its folder and changes it."""

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from tests.integration.consumers.audit.export.independent import hash_of
from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.manifest import File, Log, Manifest, sign
from tradesaga.infra.audit_log.checkpoint import Checkpoint, hash_note
from tradesaga.infra.audit_log.merkle import Frontier, hash_leaf
from tradesaga.infra.audit_log.note import Signer

Hand = Callable[[Path], None]
Json = dict[str, Any]


def read(folder: Path, name: str = layout.EVENTS) -> list[Json]:
    """Read a file's lines."""
    return [orjson.loads(line) for line in (folder / name).read_bytes().splitlines()]


def write(folder: Path, lines: list[Json], name: str = layout.EVENTS) -> None:
    """Write a file's lines as exports have them."""
    (folder / name).write_bytes(b"".join(map(layout.write_line, lines)))


def sign_again(folder: Path, signer: Signer, **changes: Any) -> None:
    """Make the manifest fit the files again, and sign it; `changes` are further members of it."""
    manifest = Manifest.parse((folder / layout.MANIFEST).read_bytes())
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("manifest."))
    entries = [
        File(
            path=path.relative_to(folder).as_posix(),
            bytes=path.stat().st_size,
            sha256=sha256(path.read_bytes()).hexdigest(),
        )
        for path in files
    ]
    text = manifest.model_copy(update={"files": tuple(entries), **changes}).to_bytes()
    (folder / layout.MANIFEST).write_bytes(text)
    (folder / layout.SIGNATURE).write_text(sign(signer, text))


def seal_again(folder: Path, signer: Signer) -> None:
    """Sign a checkpoint of what the records are now, and make the manifest fit."""
    lines = read(folder)
    logs: list[Log] = []
    notes: list[Json] = []
    manifest = Manifest.parse((folder / layout.MANIFEST).read_bytes())
    for log in manifest.logs:
        mine = [line for line in lines if line["partition"] == log.partition]
        if not mine:
            continue
        frontier = Frontier.empty()
        for line in mine:
            frontier.append(hash_leaf(bytes.fromhex(line["hash"])))
        checkpoint = Checkpoint(log.origin, frontier.size, frontier.root(), frontier.size, "", 1)
        note = signer.sign(checkpoint.to_text())
        notes.append({"origin": log.origin, "size": frontier.size, "note": note})
        last = {
            "records": frontier.size,
            "last_leaf": frontier.size - 1,
            "last_offset": frontier.size - 1,
            "size": frontier.size,
        }
        logs.append(log.model_copy(update={**last, "checkpoint": hash_note(note)}))
    write(folder, notes, layout.CHECKPOINTS)
    sign_again(folder, signer, logs=tuple(logs), records=len(lines))


def hash_again(lines: list[Json]) -> None:
    """Make every record's hash fit its bytes, and the chains fit the hashes."""
    heads: dict[str, bytes] = {}
    for line in lines:
        counted = line["seq"] is not None
        found = hash_of(line, heads.get(line["saga_id"], b"") if counted else b"")
        line["hash"] = found.hex()
        if counted:
            heads[line["saga_id"]] = found


def fit_sagas(folder: Path, lines: list[Json]) -> None:
    """Make the sagas' lines fit the records."""
    heads = {line["saga_id"]: (line["seq"], line["hash"]) for line in lines if line["seq"] is not None}
    sagas = [line for line in read(folder, layout.SAGAS) if line["saga_id"] in heads]
    for line in sagas:
        line["seq"], line["head"] = heads[line["saga_id"]]
    write(folder, sagas, layout.SAGAS)


def renumber(lines: list[Json]) -> None:
    """Close the gaps in leaves and offsets."""
    ends: dict[int, int] = {}
    for line in lines:
        line["leaf"] = line["offset"] = ends.get(line["partition"], 0)
        ends[line["partition"]] = line["leaf"] + 1


def fit(folder: Path, lines: list[Json]) -> None:
    """Make everything fit that needs no key."""
    hash_again(lines)
    write(folder, lines)
    fit_sagas(folder, lines)


def flip_a_byte(folder: Path) -> None:
    """Change one payload, and its hash and chain with it."""
    lines = read(folder)
    lines[7]["value"] = lines[7]["value"].replace("5", "6") + " "
    fit(folder, lines)


def remove_a_row(folder: Path) -> None:
    """Take one record out."""
    lines = read(folder)
    del lines[9]
    write(folder, lines)


def remove_a_row_and_close_the_gap(folder: Path) -> None:
    """Take one record out, and make leaves, offsets, chains and hashes fit."""
    lines = read(folder)
    gone = lines.pop(9)
    for line in lines:
        if line["saga_id"] == gone["saga_id"] and line["seq"] > gone["seq"]:
            line["seq"] -= 1
    renumber(lines)
    fit(folder, lines)


def remove_a_saga(folder: Path) -> None:
    """Take a whole saga out, and make everything fit."""
    lines = read(folder)
    lines = [line for line in lines if line["saga_id"] != lines[0]["saga_id"]]
    renumber(lines)
    fit(folder, lines)


def leave_a_saga_out(folder: Path) -> None:
    """Take a saga's records out, and leave the rest as it is."""
    lines = read(folder)
    write(folder, [line for line in lines if line["saga_id"] != lines[0]["saga_id"]])


def cut_the_tail(folder: Path) -> None:
    """Take the last three records away."""
    lines = read(folder)[:-3]
    write(folder, lines)
    fit_sagas(folder, lines)


def swap_two_rows(folder: Path) -> None:
    """Let two sagas have done each other's deeds."""
    lines = read(folder)
    other = next(number for number, line in enumerate(lines) if line["saga_id"] != lines[0]["saga_id"])
    for member in ("value", "headers", "saga_id"):
        lines[0][member], lines[other][member] = lines[other][member], lines[0][member]
    fit(folder, lines)


def reorder_two_rows(folder: Path) -> None:
    """Let two records change places in the file."""
    lines = read(folder)
    lines[2], lines[3] = lines[3], lines[2]
    write(folder, lines)


def repeat_a_line(folder: Path) -> None:
    """Write a record twice."""
    lines = read(folder)
    write(folder, [*lines[:4], lines[3], *lines[4:]])


def back_date(folder: Path) -> None:
    """Let a record be a minute older."""
    lines = read(folder)
    lines[5]["recorded_ms"] -= 60_000
    fit(folder, lines)


def tell_another_state(folder: Path) -> None:
    """Change what a record is called, where the seal does not reach."""
    lines = read(folder)
    lines[5]["step"] = "settle"
    write(folder, lines)


def cut_a_file(folder: Path) -> None:
    """Stop in the middle of a line, as a full disk does."""
    path = folder / layout.EVENTS
    os.truncate(path, path.stat().st_size // 2)


def empty_the_events(folder: Path) -> None:
    """Leave no record."""
    (folder / layout.EVENTS).write_bytes(b"")


def forge_a_proof(folder: Path) -> None:
    """Put a root in the place of the last records."""
    lines = read(folder)
    last = lines.pop()
    write(folder, lines)
    (folder / layout.PROOFS).write_bytes(
        layout.write_line(
            {"topic": last["topic"], "partition": last["partition"], "leaf": last["leaf"], "level": 0,
             "root": sha256(b"\0" + bytes.fromhex(last["hash"])).hexdigest()}
        )
    )  # fmt: skip
    fit_sagas(folder, lines)


def name_another_partition(folder: Path) -> None:
    """Let a record be of a log that the export does not have."""
    lines = read(folder)
    lines[-1]["topic"] = "foreign.events"
    write(folder, lines)


def no_utf8(folder: Path) -> None:
    """Put bytes in that are no text."""
    path = folder / layout.EVENTS
    path.write_bytes(path.read_bytes().replace(b'"topic"', b'"t\xff\xfeic"', 3))


def deep_json(folder: Path) -> None:
    """Nest a line a million times."""
    path = folder / layout.EVENTS
    path.write_bytes(b"[" * 1_000_000 + b"]" * 1_000_000 + b"\n" + path.read_bytes())


def deep_headers(folder: Path) -> None:
    """Nest the headers of a record a million times."""
    lines = read(folder)
    lines[0]["headers"] = "[" * 1_000_000
    write(folder, lines)


def absurd_numbers(folder: Path) -> None:
    """Write numbers that no machine holds."""
    path = folder / layout.EVENTS
    path.write_bytes(path.read_bytes().replace(b'"offset":3,', b'"offset":' + b"9" * 40 + b","))


def negative_numbers(folder: Path) -> None:
    """Write a partition and a level below zero."""
    lines = read(folder)
    lines[1]["partition"] = -1
    lines[2]["recorded_ms"] = -(2**70)
    (folder / layout.EVENTS).write_text("".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines))


def wrong_members(folder: Path) -> None:
    """Write lines that are JSON and none of ours."""
    (folder / layout.EVENTS).write_bytes(b'[]\nnull\n7\n"x"\n{}\n{"topic":{}}\n')
    (folder / layout.SAGAS).write_bytes(b'[]\n{"saga_id":[]}\n')
    (folder / layout.PROOFS).write_bytes(b'{"topic":"t","partition":0,"leaf":0,"level":99999999999,"root":""}\n{}\n')
    (folder / layout.CHECKPOINTS).write_bytes(b'{"note":7}\n')


def repeated_members(folder: Path) -> None:
    """Say two things in one line: readers of JSON do not agree on which of them counts."""
    path = folder / layout.EVENTS
    path.write_bytes(path.read_bytes().replace(b'"partition":', b'"offset":1,"partition":', 1))


def remove_a_file(folder: Path) -> None:
    """Take the sagas away."""
    (folder / layout.SAGAS).unlink()


def link_a_file(folder: Path) -> None:
    """Put a link where a file was."""
    (folder / layout.EVENTS).unlink()
    (folder / layout.EVENTS).symlink_to("/etc/passwd")


def pipe_for_a_file(folder: Path) -> None:
    """Put a pipe where a file was: reading one would wait for ever."""
    (folder / layout.SAGAS).unlink()
    os.mkfifo(folder / layout.SAGAS)


def folder_for_a_file(folder: Path) -> None:
    """Put a folder where a file was."""
    (folder / layout.PROOFS).unlink()
    (folder / layout.PROOFS).mkdir()


def link_a_folder(folder: Path) -> None:
    """Let the schemas lie elsewhere."""
    shutil.move(folder / layout.SCHEMAS, folder.parent / f"{folder.name}-schemas")
    (folder / layout.SCHEMAS).symlink_to(folder.parent / f"{folder.name}-schemas")


def add_a_file(folder: Path) -> None:
    """Lay something beside."""
    (folder / "orders-2.csv").write_text("saga_id\n")


def no_checkpoints(folder: Path) -> None:
    """Leave no seal."""
    (folder / layout.CHECKPOINTS).write_bytes(b"")


def hollow_file(folder: Path) -> None:
    """Let a small file claim a terabyte."""
    os.truncate(folder / layout.CHECKPOINTS, 1 << 40)


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Change members of the manifest, and leave its signature."""
    path = folder / layout.MANIFEST
    manifest = Manifest.parse(path.read_bytes())
    path.write_bytes(manifest.model_copy(update=changes).to_bytes())


def no_manifest(folder: Path) -> None:
    """Take the manifest away."""
    (folder / layout.MANIFEST).unlink()


def nonsense_manifest(folder: Path) -> None:
    """Write something else into the manifest."""
    (folder / layout.MANIFEST).write_bytes(b"\xff{" + b"[" * 100_000)


def no_signature(folder: Path) -> None:
    """Take the signature away."""
    (folder / layout.SIGNATURE).unlink()


def strange_signature(folder: Path) -> None:
    """Write a signature in letters that base64 does not have."""
    note = (folder / layout.SIGNATURE).read_text()
    (folder / layout.SIGNATURE).write_text(note.rstrip() + "\N{SNOWMAN}\n")


def huge_manifest(folder: Path) -> None:
    """Let the manifest be endless."""
    os.truncate(folder / layout.MANIFEST, 1 << 40)


def rename_a_file(folder: Path, name: str) -> None:
    """Let the manifest name a file that lies elsewhere."""
    path = folder / layout.MANIFEST
    manifest = Manifest.parse(path.read_bytes())
    files = (*manifest.files, File(path=name, bytes=1 << 62, sha256="0" * 64))
    path.write_bytes(manifest.model_copy(update={"files": files}).to_bytes())
