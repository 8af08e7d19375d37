# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false, reportUnknownParameterType=false
# pyright: reportUntypedClassDecorator=false
"""The saga on Temporal: a worker with its client; orders come as lines of JSON, an answer goes out for each.

Runs in the peers' environment: `python -m tests.benchmarks.peers.temporal_worker ADDRESS POLLS`.
"""

import asyncio
import json
import logging
import sys
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

from temporalio import activity, workflow
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

QUEUE = "bench"
NAMESPACE = "default"
STEPS = ("validate_order", "reserve_funds", "place_order", "confirm_fill", "settle")
LIMIT = timedelta(seconds=60)
READY_SECONDS = 60.0
STARTS_AT_ONCE = 50
READS_AT_ONCE = 8


def _step(name: str) -> Any:
    @activity.defn(name=name)
    async def step(kind: str) -> dict[str, str]:
        if kind == "compensated" and name == "confirm_fill":
            raise ApplicationError("refused", non_retryable=True)
        return {"qty": "100", "px": "101.25"}

    return step


@activity.defn
async def take_back(name: str) -> dict[str, str]:
    """Answer."""
    return {"undone": name}


@workflow.defn(name="Trade")
class Trade:
    """The saga."""

    @workflow.run
    async def run(self, kind: str) -> str:
        """Run the steps; after a refusal take back what was done, last first."""
        done: list[str] = []
        try:
            for name in STEPS:
                await workflow.execute_activity(name, kind, start_to_close_timeout=LIMIT)
                done.append(name)
        except ActivityError:
            for name in reversed(done):
                await workflow.execute_activity(take_back, name, start_to_close_timeout=LIMIT)
            return "ABORTED"
        return "COMPLETED"


async def start(client: Client, order: dict[str, Any]) -> dict[str, float]:
    """Start sagas at a rate or, at 0, all at once; give the time at which each was due."""
    starts: dict[str, float] = {}
    room = asyncio.Semaphore(STARTS_AT_ONCE)

    async def one(saga: str) -> None:
        async with room:
            await client.start_workflow("Trade", order["kind"], id=saga, task_queue=QUEUE, request_eager_start=True)

    began, rate = time.time() + order["delay"], order["rate"]
    async with asyncio.TaskGroup() as group:
        for index in range(order["sagas"]):
            due = began + index / rate if rate else began
            if due > time.time():
                await asyncio.sleep(due - time.time())
            saga = str(uuid4())
            starts[saga] = due
            group.create_task(one(saga))
    return starts


async def look(client: Client, sagas: list[str]) -> dict[str, Any]:
    """Read what the histories say of sagas that have ended."""
    room = asyncio.Semaphore(READS_AT_ONCE)

    async def one(saga: str) -> Any:
        async with room:
            return await _history(client, saga)

    return dict(zip(sagas, await asyncio.gather(*map(one, sagas)), strict=True))


async def _history(client: Client, saga: str) -> dict[str, Any]:
    """Give a saga's answer, the steps that ended, and how often the most tried one was begun."""
    told: dict[str, Any] = {"state": "FAILED", "steps": 0, "attempts": 1}
    async for event in client.get_workflow_handle(saga).fetch_history_events():
        match event.WhichOneof("attributes"):
            case "activity_task_started_event_attributes":
                attempt = event.activity_task_started_event_attributes.attempt
                told["attempts"] = max(told["attempts"], attempt)
            case "activity_task_completed_event_attributes" | "activity_task_failed_event_attributes":
                told["steps"] += 1
            case "workflow_execution_completed_event_attributes":
                answer = event.workflow_execution_completed_event_attributes.result.payloads[0]
                told["state"] = json.loads(answer.data)
            case _:
                pass
    return told


async def connect(address: str) -> Client:
    """Wait for the server, and for the namespace, which is made where it is not there yet."""
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            client = await Client.connect(address, namespace=NAMESPACE)
            await _register(client)
            await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=NAMESPACE))
        except (RPCError, RuntimeError):
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.25)
        else:
            return client


async def _register(client: Client) -> None:
    request = RegisterNamespaceRequest(namespace=NAMESPACE)
    request.workflow_execution_retention_period.FromTimedelta(timedelta(days=1))
    try:
        await client.workflow_service.register_namespace(request)
    except RPCError as error:
        if error.status != RPCStatusCode.ALREADY_EXISTS:
            raise


async def main(address: str, polls: int) -> None:
    """Serve orders until the input ends."""
    # It would write each refusal down, with its stack.
    logging.disable(logging.WARNING)
    client = await connect(address)
    worker = Worker(
        client,
        task_queue=QUEUE,
        workflows=[Trade],
        activities=[*map(_step, STEPS), take_back],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_concurrent_workflow_task_polls=polls,
        max_concurrent_activity_task_polls=polls,
    )
    async with worker:
        print("ready", flush=True)  # noqa: T201
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            answer = await (look(client, order["look"]) if "look" in order else start(client, order))
            print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
