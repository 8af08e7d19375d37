"""F: the disk is full, and free again."""

import asyncio

import psutil

from tests.faults.stage import Stage


async def fill_disk(stage: Stage) -> None:
    """Leave PostgreSQL no room for what the handlers write and for new starts, then give it back."""
    kind = "64 MB tmpfs" if stage.database.mounted else "file-size limit"
    async with stage.fault(f"disk full ({kind})"):
        try:
            await asyncio.to_thread(stage.database.fill_disk)
        except psutil.AccessDenied:
            stage.notes.untried.append(
                "full disk: the run may neither mount a memory disk nor limit the server's files"
            )
            return
        await asyncio.sleep(4.0 if stage.short else 8.0)
        await asyncio.to_thread(stage.database.free_disk)
        if not stage.database.alive:
            await stage.database.start()
