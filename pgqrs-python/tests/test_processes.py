"""Event loops, threads, forks, kills and exits."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from conftest import eventually

import pgqrs
import pgqrs.sync


def python(program: str, *args: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", program, *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(program: str, *args: str) -> str:
    process = python(program, *args)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


async def test_several_event_loops_share_a_store(store: pgqrs.Store, queue: str) -> None:
    def in_another_loop(start: int) -> None:
        asyncio.run(enqueue(start))

    async def enqueue(start: int) -> None:
        await asyncio.gather(*(store.enqueue(queue, start + n) for n in range(20)))

    threads = [threading.Thread(target=in_another_loop, args=(n * 20,)) for n in range(4)]
    for thread in threads:
        thread.start()
    await enqueue(80)
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    messages = await store.dequeue(queue, batch_size=1000)
    assert sorted(message.payload for message in messages) == list(range(100))


@asynccontextmanager
async def writers_wait(store: pgqrs.Store, url: str) -> AsyncIterator[None]:
    """Nobody can write to the database inside the block."""
    if url.startswith("sqlite"):
        async with store.transaction(timeout=60):
            yield
        return
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("lock table pgqrs.messages")
        yield
    await connection.close()


async def test_python_goes_on_while_a_call_waits_for_the_database(
    store: pgqrs.Store, queue: str, url: str
) -> None:
    done: list[int] = []
    async with writers_wait(store, url):
        waiting = asyncio.ensure_future(store.enqueue(queue, "job"))
        for _ in range(100):
            await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: done.extend(range(1_000)))
        thread.start()
        thread.join(timeout=20)
        assert len(done) == 1_000 and not waiting.done()
    assert await waiting > 0


EXIT = """
import asyncio, sys, pgqrs
store = None
async def main():
    global store
    store = await pgqrs.connect(sys.argv[1])
    await store.create_queue("exit")
    consumer = await store.consumer("exit", heartbeat_timeout=0.1)
    asyncio.ensure_future(pgqrs.Worker(store, "exit", print).run())
    calls = [asyncio.ensure_future(store.enqueue("exit", n)) for n in range(100)]
    await asyncio.sleep(0)
asyncio.run(main())
print("end")
"""


def test_the_interpreter_exits_with_a_live_store(url: str) -> None:
    assert ended(EXIT, url) == "end\n"


FORK = """
import asyncio, os, sys, pgqrs, pgqrs.sync
store = pgqrs.sync.connect(sys.argv[1])
store.create_queue(sys.argv[2])
consumer = store.consumer(sys.argv[2])
child = os.fork()
if child == 0:
    try:
        for call in (lambda: store.enqueue(sys.argv[2], 1), consumer.dequeue):
            try:
                call()
            except pgqrs.ForkedError as error:
                assert "pgqrs.connect in the child" in str(error)
            else:
                os._exit(1)
        del store, consumer, call
        store = pgqrs.sync.connect(sys.argv[1])
        store.enqueue(sys.argv[2], "from the child")
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(2)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
[message] = store.dequeue(sys.argv[2])
print(message.payload)
"""


def test_a_fork_is_noticed_and_the_child_connects_by_itself(url: str) -> None:
    assert ended(FORK, url, "fork") == "from the child\n"


CONSUME = """
import asyncio, os, random, sys, pgqrs
async def main():
    store = await pgqrs.connect(sys.argv[1])
    rng = random.Random(os.getpid())
    async def handler(msg):
        await asyncio.sleep(rng.random() / 50)
        if rng.random() < 0.1:
            raise ValueError("now and then")
        return rng.random() > 0.1
    print("ready", flush=True)
    await pgqrs.Worker(store, sys.argv[2], handler, concurrency=20, vt=1, host=sys.argv[3], port=1).run()
asyncio.run(main())
"""


async def test_nothing_is_lost_when_processes_are_killed(store: pgqrs.Store, url: str) -> None:
    queue, total = f"killed-{os.getpid()}", 1_000
    await store.create_queue(queue, retry=pgqrs.Backoff.fixed(0), max_attempts=1_000)
    await store.enqueue_many(queue, range(total))
    admin = pgqrs.admin(store)
    processes = [python(CONSUME, url, queue, f"host-{n}") for n in range(3)]

    async def progress(count: int) -> None:
        async def is_made() -> bool:
            return (await admin.metrics(queue))[0].archived >= count

        await eventually(is_made)

    try:
        for kills in range(1, 4):
            await progress(kills * 100)
            victim = processes.pop(0)
            victim.kill()
            victim.communicate()
            processes.append(python(CONSUME, url, queue, f"host-{kills - 1}"))
        await progress(total)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            _, err = await asyncio.to_thread(process.communicate, timeout=60)
            assert process.returncode == 0, err
    finally:
        for process in processes:
            process.kill()
    [metrics] = await admin.metrics(queue)
    assert (metrics.archived, metrics.live, metrics.dead) == (total, 0, 0)
    payloads: list[int] = []
    after = None
    while page := await admin.archive(queue, after=after, limit=500):
        payloads += [message.payload for message in page]
        after = page[-1].id
    assert sorted(payloads) == list(range(total))


def test_sync(url: str) -> None:
    store = pgqrs.sync.connect(url)
    queue = f"sync-{os.getpid()}"
    store.create_queue(queue, retry=pgqrs.Backoff.fixed(0))
    store.enqueue_many(queue, range(6))
    threads = []

    def handler(msg: pgqrs.Message) -> bool:
        threads.append(threading.current_thread())
        if msg.payload == 1:
            raise StopIteration
        return msg.payload != 2

    assert pgqrs.sync.consume(store, queue, handler, batch_size=3) == 3
    assert set(threads) == {threading.main_thread()}
    [metrics] = pgqrs.sync.admin(store).metrics(queue)
    assert (metrics.archived, metrics.ready) == (1, 5)
    consumer = store.consumer(queue)
    first, second, third = pgqrs.sync.dequeue(consumer, batch_size=3)
    pgqrs.sync.archive(consumer, first)
    consumer.delete(second.id)
    pgqrs.sync.extend_vt(consumer, third, 30)
    consumer.shutdown()
    with store.consume_iter(queue, idle=0) as iterator:
        for msg in iterator:
            iterator.archive(msg.id)
    [metrics] = pgqrs.sync.admin(store).metrics(queue)
    assert (metrics.archived, metrics.live) == (5, 0)
    producer = store.producer(queue)
    producer.enqueue("last", priority=9)

    def stopping(msg: pgqrs.Message) -> None:
        worker.stop()

    worker = pgqrs.sync.Worker(store, queue, stopping)
    assert worker.run().handled == 1


def test_sync_gives_back_when_it_is_interrupted(tmp_path: Path) -> None:
    store = pgqrs.sync.connect(f"sqlite:///{tmp_path}/jobs.db")
    store.create_queue("tasks")
    store.enqueue_many("tasks", range(3))

    def handler(msg: pgqrs.Message) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pgqrs.sync.consume(store, "tasks", handler, batch_size=3, vt=3600)
    [metrics] = pgqrs.sync.admin(store).metrics("tasks")
    assert (metrics.ready, metrics.leased) == (3, 0)
