"""What only clusters can go through: leaders move, copies are missing, a majority is away, a standby takes over."""

import asyncio

from tests.faults.cluster import Cluster
from tests.faults.replicated import Replicated
from tests.faults.stage import Stage
from tests.waiting import until


async def move_leaders(stage: Stage) -> None:
    """End the leader as a rolling restart would, after it has handed over; it gets its partitions back later."""
    cluster = _cluster(stage)
    async with stage.fault("the leader is restarted, handing over"):
        await cluster.retire()
        await cluster.start()


async def kill_two_brokers(stage: Stage) -> None:
    """Kill two of three brokers for some seconds: nobody is left who could choose a leader."""
    cluster = _cluster(stage)
    async with stage.fault("two of three brokers: kill -9 and start"):
        await cluster.kill_two()
        await asyncio.sleep(stage.chance.uniform(4.0, 7.0))
        await cluster.start()


async def demand_all_copies(stage: Stage) -> None:
    """Kill the leader while each record needs three copies, so that the two others refuse what they are sent."""
    cluster = _cluster(stage)
    async with stage.fault("NOT_ENOUGH_REPLICAS"):
        await cluster.demand(3)
        await cluster.kill()
        await until(cluster.refuses, 30.0)
        stage.notes.too_few += 1
        await asyncio.sleep(stage.session_seconds)
        await cluster.demand(2)
        await cluster.start()


async def cut_from_one_broker(stage: Stage) -> None:
    """Cut one process from one broker of three."""
    member = stage.pick("desk", "market", "log", "front", "door")
    place = stage.chance.randrange(len(member.kafka.links))
    async with stage.fault(f"{member.name} cut from broker {place + 1}"):
        member.kafka.links[place].cut()
        await asyncio.sleep(stage.session_seconds + 2)
        member.kafka.heal()


async def pause_standby(stage: Stage) -> None:
    """Stop the standby for longer than a session: every commit is done, and none is confirmed."""
    database = _replicated(stage)
    seconds = stage.session_seconds + 2
    async with stage.fault(f"the standby: stopped for {seconds:.0f} s"):
        database.pause_standby()
        await asyncio.sleep(seconds)
        database.resume_standby()


async def fail_over(stage: Stage) -> None:
    """Kill the primary under load, promote its standby, and lead everybody there; it gets a standby of its own."""
    database = _replicated(stage)
    async with stage.fault("PostgreSQL: primary killed, standby promoted"):
        await database.lose_primary()
        stage.notes.failovers.append(stage.clients.history.count("ok"))
        await asyncio.sleep(stage.chance.uniform(0.5, 2.0))
        await database.promote()
        stage.crew.lead_to(database.port)
    await database.replicate()


def _replicated(stage: Stage) -> Replicated:
    if not isinstance(stage.database, Replicated):
        raise TypeError("this act needs a standby: run it with --clusters")
    return stage.database


def _cluster(stage: Stage) -> Cluster:
    if not isinstance(stage.broker, Cluster):
        raise TypeError("this act needs three brokers: run it with --clusters")
    return stage.broker
