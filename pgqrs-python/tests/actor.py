"""A process that uses a queue at random and writes down what it does, before and after each call, in
the form of ``pgqrs_testkit::history``: ``python actor.py URL QUEUE LOG ROLE``. It may be killed at any
moment; SIGTERM ends it between two calls.

Roles: ``produce:100`` so many messages, ``consume`` without a registration, ``work`` as a registered
consumer, ``drain`` until the queue is empty.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from datetime import datetime
from typing import Any, Optional, Union

import pgqrs

Holder = Union[pgqrs.Store, pgqrs.Consumer]


class Log:
    """One JSON object a line, each by one write."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)

    def write(self, event: str, what: Any) -> None:
        record = {"at": time.time_ns() // 1_000, "event": {event: what}}
        os.write(self._file, json.dumps(record).encode() + b"\n")


class Actor:
    def __init__(self, store: pgqrs.Store, queue: str, log: Log) -> None:
        self.store = store
        self.queue = queue
        self.log = log
        self.stopped = False

    async def produce(self, count: int) -> None:
        while count > 0 and not self.stopped:
            size = min(count, random.randint(1, 20))
            delay = random.choice([0, 0, 0, 0.05])
            self.log.write("Enqueuing", size)
            try:
                ids = await self.store.enqueue_many(
                    self.queue, range(size), priority=random.randrange(10), delay=delay
                )
            except pgqrs.UnavailableError:
                continue
            self.log.write("Enqueued", ids)
            count -= size

    async def consume(self, holder: Holder) -> None:
        old: list[pgqrs.Message] = []
        while not self.stopped:
            vt = random.choice([random.uniform(0.001, 0.05), 0.5, 0.5, 0.5])
            messages = await self.claim(holder, random.randint(1, 20), vt)
            if not messages and not old:
                await asyncio.sleep(random.uniform(0.001, 0.005))
                continue
            # Some are left to expire, and old receipts are tried again.
            chosen = [message for message in messages if random.random() > 1 / 30]
            late = random.sample(old, min(len(old), 0 if messages and random.random() > 0.1 else 3))
            await self.settle(holder, chosen + [m for m in late if m not in chosen])
            old = (old + messages)[-200:]

    async def drain(self) -> None:
        while (await pgqrs.admin(self.store).metrics(self.queue))[0].live:
            messages = await self.claim(self.store, 500, 30)
            await self.settle(self.store, messages, "Archive")
            if not messages:
                await asyncio.sleep(0.01)

    async def claim(self, holder: Holder, limit: int, vt: float) -> list[pgqrs.Message]:
        try:
            if isinstance(holder, pgqrs.Store):
                messages = await holder.dequeue(self.queue, batch_size=limit, vt=vt)
            else:
                messages = await pgqrs.dequeue(holder, batch_size=limit, vt=vt)
        except pgqrs.UnavailableError:
            return []
        if messages:
            self.log.write("Claimed", [lease(message) for message in messages])
        return messages

    async def settle(
        self, holder: Holder, messages: list[pgqrs.Message], act: Optional[str] = None
    ) -> None:
        if not messages:
            return
        kinds, weights = ["Archive", "Delete", "Release", "Fail", "Extend"], [75, 5, 8, 8, 4]
        acts = [act or random.choices(kinds, weights)[0] for _ in messages]
        asked = [[receipt(message), kind] for message, kind in zip(messages, acts)]
        self.log.write("Settling", asked)
        calls = (answer(holder, message, kind) for message, kind in zip(messages, acts))
        try:
            answers = await asyncio.gather(*calls)
        except pgqrs.UnavailableError:
            return
        self.log.write("Settled", [[*one, told] for one, told in zip(asked, answers)])


async def answer(holder: Holder, message: pgqrs.Message, act: str) -> Any:
    try:
        if act == "Archive":
            await pgqrs.archive(holder, message)
            return "Archived"
        if act == "Delete":
            await pgqrs.delete(holder, message)
            return "Deleted"
        if act == "Release":
            await pgqrs.release(holder, message, random.choice([0, 0.02]))
            return "GivenBack"
        if act == "Fail":
            outcome = await pgqrs.fail(holder, message, "at random", retry_after=0)
            return "Dead" if outcome == "dead" else "GivenBack"
        return {"Extended": instant(await pgqrs.extend_vt(holder, message, 0.5))}
    except pgqrs.LeaseLostError:
        return "Lost"


def receipt(message: pgqrs.Message) -> dict[str, int]:
    return {"id": message.id, "token": message.token}


def lease(message: pgqrs.Message) -> dict[str, Any]:
    since, until = instant(message.claimed_at), instant(message.visible_at)
    return {"receipt": receipt(message), "worker": message.worker, "from": since, "until": until}


def instant(time: datetime) -> str:
    return time.isoformat(timespec="microseconds")


async def main(url: str, queue: str, log: str, role: str) -> None:
    actor = Actor(await pgqrs.connect(url), queue, Log(log))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, setattr, actor, "stopped", True)
    if role.startswith("produce:"):
        await actor.produce(int(role.partition(":")[2]))
    elif role == "drain":
        await actor.drain()
    else:
        await actor.consume(await actor.store.consumer(queue) if role == "work" else actor.store)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
