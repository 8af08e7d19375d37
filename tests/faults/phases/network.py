"""D: the broker dies or stands still; processes lose sight of one server or the other, or are heard and do not hear."""

import asyncio

from tests.faults.stage import Stage

LEADERLESS = 22.0
"""Seconds of silence that outlast the producers' patience of 20."""


async def kill_broker(stage: Stage) -> None:
    """Kill the broker, and start it on its logs."""
    async with stage.fault("broker: kill -9 and start"):
        await stage.broker.kill()
        await stage.broker.start()


async def pause_broker(stage: Stage) -> None:
    """Stop the broker where it stands for longer than a session."""
    seconds = stage.session_seconds + 2
    async with stage.fault(f"broker: stopped for {seconds:.0f} s"):
        stage.broker.pause()
        await asyncio.sleep(seconds)
        stage.broker.go_on()


async def cut_from_kafka(stage: Stage) -> None:
    """Cut one process from the broker alone."""
    member = stage.pick("desk", "market", "log", "front", "door")
    async with stage.fault(f"{member.name} cut from Kafka"):
        member.kafka.cut()
        await asyncio.sleep(stage.session_seconds + 2)
        member.kafka.heal()


async def cut_from_postgres(stage: Stage) -> None:
    """Cut one process from the database alone."""
    member = stage.pick("desk", "market", "log", "front", "door")
    async with stage.fault(f"{member.name} cut from PostgreSQL"):
        member.postgres.cut()
        await asyncio.sleep(stage.session_seconds)
        member.postgres.heal()


async def lose_acks(stage: Stage) -> None:
    """Let what a process sends arrive, and nothing come back: its records are there, its acks are not."""
    member = stage.pick("desk", "market", "log", "door")
    seconds = stage.session_seconds + 2 if stage.short else LEADERLESS
    async with stage.fault(f"{member.name} hears nothing of Kafka for {seconds:.0f} s"):
        member.kafka.stall("to_client")
        await asyncio.sleep(seconds)
        member.kafka.heal()


async def black_hole(stage: Stage) -> None:
    """Let packets to both servers vanish without a word."""
    member = stage.pick("desk", "market", "log")
    async with stage.fault(f"{member.name} in a black hole"):
        member.kafka.stall()
        member.postgres.stall()
        await asyncio.sleep(stage.session_seconds + 3)
        member.kafka.heal()
        member.postgres.heal()
