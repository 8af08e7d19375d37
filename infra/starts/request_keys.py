"""The file of the keys that hash requests, and the commands `tradesaga keys list` and `tradesaga keys rotate`.

An installation has one such file, the same for all services that start sagas. It has one key per line, the
current one first: `hmac-sha256:<key id>:<secret in hex>`. Lines that begin with `#` are comments.
"""

import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import typer

from tradesaga.infra.cli.console import AsJson, Directory, print_result
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.settings import load_settings
from tradesaga.schemas.identity import SCHEME, SECRET_BYTES, RequestKey, RequestKeys

_HEAD: Final = "# Keys of request hashes, the current one first. Keep old ones: stored hashes are compared with them.\n"


def read_request_keys(path: Path) -> RequestKeys:
    """Read the keys. Raises `CommandError`: exit 3 if there is no file, exit 2 if it is invalid."""
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        what = f"the keys of request hashes cannot be read: {error.strerror}"
        do = "run `tradesaga migrate`, or name the file that the other services use in TRADESAGA_REQUEST_KEYS"
        raise CommandError("request-keys-missing", what, str(path), do, ExitCode.NOT_FOUND) from error
    except UnicodeDecodeError:
        raise _invalid(path, "it is not ASCII text") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    keys = [_parse(path, number, line) for number, line in lines if line and not line.startswith("#")]
    if not keys:
        raise _invalid(path, "it has no key")
    return RequestKeys(keys)


def ensure_request_keys(path: Path) -> bool:
    """Create the file with one key unless it exists; return whether it was created. Concurrent callers create one."""
    if path.exists():
        read_request_keys(path)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    made = _write_beside(path, [RequestKey(secrets.token_bytes(SECRET_BYTES))])
    try:
        os.link(made, path)  # fails if another caller was faster; the file appears only once it is complete
    except FileExistsError:
        return False
    finally:
        made.unlink()
    return True


def rotate_request_keys(path: Path) -> RequestKeys:
    """Put a new key before the others, atomically, and return all. Raises as `read_request_keys` does."""
    keys = RequestKeys([RequestKey(secrets.token_bytes(SECRET_BYTES)), *read_request_keys(path).keys])
    _write_beside(path, keys.keys).replace(path)
    return keys


def _write_beside(path: Path, keys: Sequence[RequestKey]) -> Path:
    """Write the keys to a temporary file in the same folder that only its owner can read."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(_HEAD)
        file.writelines(f"{SCHEME}:{key.id}:{key.secret.hex()}\n" for key in keys)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)


def _parse(path: Path, number: int, line: str) -> RequestKey:
    scheme, _, rest = line.partition(":")
    key_id, _, secret = rest.partition(":")
    try:
        key = RequestKey(bytes.fromhex(secret))
    except ValueError:
        raise _invalid(path, f"line {number} has no key of {SECRET_BYTES} bytes in hex") from None
    if scheme != SCHEME or key.id != key_id:
        raise _invalid(path, f"line {number} is damaged: its secret does not match its key id")
    return key


def _invalid(path: Path, what: str) -> CommandError:
    do = "restore it from its backup; a new key cannot verify the hashes of the old ones"
    return CommandError(
        "request-keys-invalid", f"the file of request keys is invalid: {what}", str(path), do, ExitCode.USAGE
    )


keys = typer.Typer(no_args_is_help=True, help="List and rotate the keys that hash requests.")


@keys.command("list", epilog="Example: `tradesaga keys list --json`")
def list_command(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """List the ids of the keys, the current one first; secrets are not shown."""
    _show(read_request_keys(load_settings(directory).request_keys_file()), as_json=as_json)


@keys.command(epilog="Example: `tradesaga keys rotate`, then copy the file to every machine and restart the services")
def rotate(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """Add a new current key and keep the others; services that start from now on hash with it."""
    _show(rotate_request_keys(load_settings(directory).request_keys_file()), as_json=as_json)


def _show(found: RequestKeys, *, as_json: bool) -> None:
    ids = [key.id for key in found.keys]
    text = "\n".join(f"{key_id}{'  current' if number == 0 else ''}" for number, key_id in enumerate(ids))
    print_result({"current": ids[0], "keys": ids}, text, as_json=as_json)
