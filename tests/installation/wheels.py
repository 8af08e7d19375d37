"""Wheels made for tests: empty ones with real metadata, and installed packages packed again."""

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution
from pathlib import Path

_WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_OF_ONE_INSTALLATION = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "WHEEL"}


def normalized(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def empty_wheel(folder: Path, name: str, version: str, requires: Iterable[str], extras: Iterable[str]) -> Path:
    """Write a wheel that holds nothing but its metadata."""
    fields = [("Metadata-Version", "2.1"), ("Name", name), ("Version", version)]
    fields += [("Provides-Extra", extra) for extra in extras] + [("Requires-Dist", each) for each in requires]
    metadata = "".join(f"{field}: {value}\n" for field, value in fields)
    return _write(folder, name, version, {f"{_info(name, version)}/METADATA": metadata.encode()})


def packed_again(folder: Path, distribution: Distribution) -> Path:
    """Write the wheel of an installed package, so that it can be installed elsewhere on this machine."""
    name, version = distribution.name, distribution.version
    content: dict[str, bytes] = {}
    scripts = {point.name for point in distribution.entry_points if point.group == "console_scripts"}
    for file in distribution.files or []:
        path = Path(str(file.locate()))
        if file.parts[0] == "..":
            if path.parent.name == "bin" and path.name not in scripts:
                content[f"{_stem(name, version)}.data/scripts/{path.name}"] = path.read_bytes()
        elif "__pycache__" in file.parts:
            continue
        elif file.parts[0].endswith(".dist-info"):
            if file.name not in _OF_ONE_INSTALLATION:
                content["/".join((_info(name, version), *file.parts[1:]))] = path.read_bytes()
        else:
            content[str(file)] = path.read_bytes()
    return _write(folder, name, version, content)


def sha256(wheel: Path) -> str:
    """Return a wheel's hash as lock files write it."""
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def _write(folder: Path, name: str, version: str, content: Mapping[str, bytes]) -> Path:
    place = folder / normalized(name)
    place.mkdir(parents=True, exist_ok=True)
    wheel = place / f"{_stem(name, version)}-py3-none-any.whl"
    files = {**content, f"{_info(name, version)}/WHEEL": _WHEEL.encode()}
    record = f"{_info(name, version)}/RECORD"
    lines = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in files.items()]
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in files.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (0o100755 if ".data/scripts/" in path else 0o100644) << 16
            archive.writestr(entry, data)
        archive.writestr(record, "\n".join([*lines, f"{record},,", ""]))
    return wheel


def _stem(name: str, version: str) -> str:
    return f"{normalized(name).replace('-', '_')}-{version}"


def _info(name: str, version: str) -> str:
    return f"{_stem(name, version)}.dist-info"


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
