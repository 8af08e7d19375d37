"""Runs uv for `make`, in the pinned version and with the package index of pip's configuration.

pip installs uv from its hashed lines in `requirements-dev.lock`. uv ignores pip's configuration, so the index,
certificate, proxy, timeout and wheel folders that are set there are passed to uv as its own variables.
"""

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

LOCK: Final = Path("requirements-dev.lock")
SECTIONS: Final = ("global", "install", ":env:")
"""The sections of pip's configuration that `pip install` reads; a later one wins."""


def main(arguments: list[str]) -> int:
    """Run uv with these arguments and return its exit code."""
    pinned = uv_lines(LOCK.read_text(encoding="utf-8"))
    if _installed() != pinned.split()[0].removeprefix("uv=="):
        _install(pinned)
    # Relative to the environment that runs this: `make` calls its Python by path, without activating anything.
    program = Path(sys.executable).with_name("uv")
    config = parse_config(_pip("config", "list"))
    command = [str(program), *arguments, *uv_options(config)]
    return subprocess.run(command, env={**os.environ, **uv_variables(config, os.environ)}, check=False).returncode


def uv_lines(lock: str) -> str:
    """Return the lines that pin uv, with its hashes. Raises `SystemExit` when there are none."""
    lines = lock.splitlines(keepends=True)
    start = next((number for number, line in enumerate(lines) if line.startswith("uv==")), None)
    if start is None:
        sys.exit(f"{LOCK} does not pin uv: run `make lock` in a clone whose .venv works")
    end = next(n for n in range(start, len(lines)) if not lines[n].rstrip().endswith("\\"))
    return "".join(lines[start : end + 1])


def parse_config(listing: str) -> dict[str, str]:
    """Return what `pip config list` printed, by option."""
    sections: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listing.splitlines():
        key, separator, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if separator and section in sections:
            sections[section][option] = str(ast.literal_eval(value))
    return {option: value for section in SECTIONS for option, value in sections[section].items()}


def uv_variables(config: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Translate pip's configuration into uv's variables; those of uv that are already set stay."""
    words = {option: value.split() for option, value in config.items()}
    own = {
        # The older names, so that uv's newer ones take precedence over pip's configuration.
        "UV_INDEX_URL": config.get("index-url", ""),
        "UV_EXTRA_INDEX_URL": " ".join(words.get("extra-index-url", [])),
        # pip treats all indexes alike. Hashes are required, so none of them can supply another package.
        "UV_INDEX_STRATEGY": "unsafe-best-match" if "extra-index-url" in config else "",
        "UV_FIND_LINKS": ",".join(filter(_is_there, words.get("find-links", []))),
        "UV_INSECURE_HOST": " ".join(words.get("trusted-host", [])),
        "UV_HTTP_TIMEOUT": config.get("timeout", config.get("default-timeout", "")),
        "UV_HTTP_RETRIES": config.get("retries", ""),
    }
    # Other programs use these too. Like pip, give its own settings precedence over them.
    shared = {
        "SSL_CERT_FILE": config.get("cert", ""),
        "SSL_CLIENT_CERT": config.get("client-cert", ""),
        "HTTP_PROXY": config.get("proxy", ""),
        "HTTPS_PROXY": config.get("proxy", ""),
    }
    chosen = {name: value for name, value in own.items() if value and name not in environment}
    return chosen | {name: value for name, value in shared.items() if value}


def uv_options(config: Mapping[str, str]) -> list[str]:
    """Return the settings that uv takes only as options."""
    return ["--no-index"] if config.get("no-index", "").lower() in {"1", "true", "t", "yes", "y", "on"} else []


def _is_there(place: str) -> bool:
    """Return whether a wheel folder exists: pip only warns of a missing one, uv would fail."""
    return "://" in place or Path(place).expanduser().exists()


def _installed() -> str:
    try:
        return version("uv")
    except PackageNotFoundError:
        return ""


def _install(pinned: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "uv.txt"
        requirements.write_text(pinned, encoding="utf-8")
        options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes")
        _pip("install", *options, "-r", str(requirements))


def _pip(*arguments: str) -> str:
    """Run pip and return what it printed; its errors are shown, and end this program with pip's exit code."""
    run = subprocess.run([sys.executable, "-m", "pip", *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        sys.exit(run.returncode)
    return run.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
