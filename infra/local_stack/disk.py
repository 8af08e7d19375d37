"""Room on the disk, looked at before a server that would fill it starts."""

import shutil
from pathlib import Path

from tradesaga.infra.errors import unavailable

MEGABYTE = 1024 * 1024
ROOM_NEEDED = 500


def require_room(folder: Path) -> None:
    """Raise CommandError when the disk of `folder` has less than `ROOM_NEEDED` megabytes free."""
    free = shutil.disk_usage(folder).free // MEGABYTE
    if free < ROOM_NEEDED:
        raise unavailable(
            "disk-full",
            f"only {free} MB are free and the servers need {ROOM_NEEDED} MB",
            str(folder),
            "free some space there, or choose a folder on another disk with --dir",
        )
