"""Kafka's jars: fetched by name through jgo, held to the SHA-256 that this package pins."""

import hashlib
import logging
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import requests
from jgo.maven import MavenContext

from tradesaga.infra.errors import CommandError, unavailable

PINS = "kafka_jars.sha256"
DOWNLOADS_AT_ONCE = 6


@dataclass(frozen=True, slots=True)
class Jar:
    """One artifact by Maven coordinate, with the digest that its bytes must have."""

    group: str
    name: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The file's name in a Maven repository."""
        return f"{self.name}-{self.version}.jar"


def pinned_jars() -> list[Jar]:
    """Read the list that is shipped with this package."""
    text = files("tradesaga.infra.local_stack").joinpath(PINS).read_text()
    return [_parse(line) for line in text.splitlines()]


def jar_cache() -> Path:
    """Return the folder that holds the jars for all stacks of this user."""
    caches = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(caches) / "tradesaga" / "jars"


def fetch_jars(cache: Path) -> list[Path]:
    """Return the path of every jar, verified now, downloading those that are missing or damaged.

    Raises CommandError when one cannot be had, or is not the file that was pinned.
    """
    cache.mkdir(parents=True, exist_ok=True)
    jars = pinned_jars()
    missing = [jar for jar in jars if not _is_intact(cache / jar.file_name, jar)]
    if missing:
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            list(pool.map(partial(_download, cache), missing))
    return [cache / jar.file_name for jar in jars]


def _parse(line: str) -> Jar:
    sha256, coordinate = line.split()
    group, name, version = coordinate.split(":")
    return Jar(group, name, version, sha256)


def _is_intact(path: Path, jar: Jar) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == jar.sha256


def _download(cache: Path, jar: Jar) -> None:
    """Fetch one jar beside its place and move it there only when its digest is right."""
    staging = Path(tempfile.mkdtemp(prefix=".fetch-", dir=cache))
    try:
        found = _resolve(jar, staging)
        if not _is_intact(found, jar):
            raise _altered(jar, found)
        found.replace(cache / jar.file_name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _resolve(jar: Jar, staging: Path) -> Path:
    logging.getLogger("jgo").setLevel(logging.ERROR)
    mirror = os.environ.get("TRADESAGA_MAVEN_MIRROR")
    context = MavenContext(repo_cache=staging, remote_repos={"mirror": mirror} if mirror else None, timeout=60)
    try:
        return context.project(jar.group, jar.name).at_version(jar.version).artifact().resolve()
    except (requests.RequestException, RuntimeError, OSError) as error:
        raise unavailable(
            "download-failed",
            f"{jar.file_name} of Kafka could not be downloaded ({type(error).__name__})",
            f"{jar.group}:{jar.name}:{jar.version}",
            "check the network, or set TRADESAGA_MAVEN_MIRROR, or TRADESAGA_KAFKA to a broker that runs already",
        ) from error


def _altered(jar: Jar, found: Path) -> CommandError:
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    return unavailable(
        "download-altered",
        f"{jar.file_name} has SHA-256 {digest} and not the pinned {jar.sha256}",
        f"{jar.group}:{jar.name}:{jar.version}",
        "do not use this file; look at what stands between this machine and Maven Central, then try again",
    )
