"""`tradesaga keys`: lists and rotates the keys that hash requests."""

import typer

from tradesaga.infra.cli.options import AsJson, Directory
from tradesaga.infra.cli.output import print_result
from tradesaga.infra.settings import load_settings
from tradesaga.infra.starts.request_keys import read_request_keys, rotate_request_keys
from tradesaga.schemas.request_hash import RequestKeys

keys = typer.Typer(no_args_is_help=True, help="List and rotate the keys that hash requests.")


@keys.command("list", epilog="Example: `tradesaga keys list --json`")
def list_command(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """List the ids of the keys, the current one first; secrets are not shown."""
    _show(read_request_keys(load_settings(directory).request_keys_file()), as_json=as_json)


@keys.command(epilog="Example: `tradesaga keys rotate`, copy the file to every machine, restart the services")
def rotate(*, directory: Directory = None, as_json: AsJson = False) -> None:
    """Add a new current key and keep the others; services started from now on hash with it."""
    _show(rotate_request_keys(load_settings(directory).request_keys_file()), as_json=as_json)


def _show(found: RequestKeys, *, as_json: bool) -> None:
    ids = [key.id for key in found.keys]
    text = "\n".join(f"{key_id}{'  current' if number == 0 else ''}" for number, key_id in enumerate(ids))
    print_result({"current": ids[0], "keys": ids}, text, as_json=as_json)
