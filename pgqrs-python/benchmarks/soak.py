"""Processes that work on one queue while they are killed with -9, their runs cancelled, and their
handlers fail: in the end every message must have ended once, as it should, and memory be flat.

    python soak.py postgresql://localhost/scratch --messages 200000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pgqrs

#: Every so many messages one is poison, and ends as a dead letter.
POISON = 2_000
#: Every so many messages one fails at its first attempt.
FAILING = 50
#: Growth of a process that is never killed, in MiB, from a fifth of the messages to the end.
ALLOWED_GROWTH = 16.0


async def handler(msg: pgqrs.Message) -> bool:
    """Handles a number: at random quick or slow, as often as it is asked."""
    await asyncio.sleep(random.choice([0, 0, 0, 0.002]))
    if msg.payload % POISON == 0:
        raise pgqrs.Retry.never("poison")
    if msg.payload % FAILING == 1 and msg.attempts == 1:
        raise ValueError("the first attempt fails")
    return random.random() > 0.01


async def work(url: str, queue: str, number: int) -> None:
    """A child: runs one worker after the other, each cancelled after a while, until SIGTERM."""
    store = await pgqrs.connect(url)
    retry = pgqrs.Backoff.fixed(0.05)
    await pgqrs.admin(store).update_queue(queue, retry=retry)
    while True:
        identity = {"host": f"soak-{number}", "port": 1}
        worker = pgqrs.Worker(store, queue, handler, concurrency=50, vt=5, **identity)  # type: ignore[arg-type]
        run = asyncio.ensure_future(worker.run())
        done, _ = await asyncio.wait([run], timeout=random.uniform(0.5, 3))
        if done:
            print(run.result())
            return
        run.cancel()
        await asyncio.wait([run])


class Soak:
    """The parent."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.queue = f"soak-{os.getpid()}"
        self.children: list[subprocess.Popen[bytes]] = []
        self.kills = 0

    async def run(self) -> list[str]:
        """Runs it, and returns what is wrong."""
        options, began = self.options, time.monotonic()
        store = await pgqrs.connect(options.url)
        admin = pgqrs.admin(store)
        await admin.install()
        await store.create_queue(self.queue, max_attempts=1_000)
        filling = asyncio.ensure_future(self.fill(store))
        self.children = [self.child(number) for number in range(options.processes)]
        killing = asyncio.ensure_future(self.kill())
        memory: list[float] = []
        try:
            while True:
                await asyncio.sleep(0.2)
                [metrics] = await admin.metrics(self.queue)
                ended = metrics.archived + metrics.dead
                if ended >= options.messages / 5:
                    memory.append(resident(self.children[0].pid))
                if ended >= options.messages and filling.done():
                    break
                if time.monotonic() - began > options.timeout:
                    return [f"after {options.timeout} s: {metrics}"]
        finally:
            killing.cancel()
            await asyncio.wait([killing])
            filling.cancel()
            for child in self.children:
                child.terminate()
            codes = [await asyncio.to_thread(child.wait, 60) for child in self.children]
        took = time.monotonic() - began
        # One that is just starting, or between two workers, is ended by the signal itself.
        wrong = [f"a child ended with {code}" for code in codes if code not in (0, -signal.SIGTERM)]
        wrong += await self.account(store)
        growth = max(memory) - memory[0]
        print(f"{options.messages} messages in {took:.0f} s, {self.kills} kills")
        print(f"memory of the process that lives: {memory[0]:.1f} MiB, at most {growth:.1f} more")
        if growth > ALLOWED_GROWTH:
            wrong.append(f"memory has grown by {growth:.1f} MiB")
        await admin.delete_queue(self.queue, force=True)
        return wrong

    async def fill(self, store: pgqrs.Store) -> None:
        """Enqueues the numbers, while others are at work."""
        for start in range(0, self.options.messages, 500):
            stop = min(start + 500, self.options.messages)
            await store.enqueue_many(self.queue, range(start, stop), priority=random.randrange(10))

    async def kill(self) -> None:
        """Kills a child now and then, but the first one, and starts it again."""
        while True:
            await asyncio.sleep(self.options.kill_every * random.uniform(0.5, 1.5))
            number = random.randrange(1, len(self.children))
            self.children[number].kill()
            await asyncio.to_thread(self.children[number].wait)
            self.children[number] = self.child(number)
            self.kills += 1

    def child(self, number: int) -> subprocess.Popen[bytes]:
        options = [self.options.url, "--child", self.queue, str(number)]
        return subprocess.Popen([sys.executable, __file__, *options], stdout=subprocess.DEVNULL)

    async def account(self, store: pgqrs.Store) -> list[str]:
        """What of the counts does not add up."""
        admin, wrong = pgqrs.admin(store), []
        [metrics] = await admin.metrics(self.queue)
        if metrics.live:
            wrong.append(f"{metrics.live} messages are still live")
        ended: dict[int, str] = {}
        after = None
        while page := await admin.archive(self.queue, after=after, limit=10_000):
            for message in page:
                number = message.payload
                if number in ended:
                    wrong.append(f"message {number} has ended twice")
                ended[number] = message.outcome
                expected = "dead" if number % POISON == 0 else "done"
                if message.outcome != expected:
                    wrong.append(f"message {number} is {message.outcome}: {message.last_error}")
                if number % FAILING == 1 and message.attempts < 2:
                    wrong.append(f"message {number} has not failed first")
            after = page[-1].id
        missing = set(range(self.options.messages)) - ended.keys()
        if missing:
            wrong.append(f"{len(missing)} messages are gone, such as {sorted(missing)[:5]}")
        return wrong[:20]


def resident(process: int) -> float:
    """The memory of a process in MiB."""
    with open(f"/proc/{process}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="the store, such as postgresql://… or sqlite:///soak.db")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--kill-every", type=float, default=1.0, help="seconds, on average")
    parser.add_argument("--timeout", type=float, default=1_800, help="seconds, then it is stuck")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(work(options.url, options.child[0], int(options.child[1])))
        return 0
    wrong = asyncio.run(Soak(options).run())
    for line in wrong:
        print(line, file=sys.stderr)
    print("every message has ended once, as it should" if not wrong else "NOT as it should")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
