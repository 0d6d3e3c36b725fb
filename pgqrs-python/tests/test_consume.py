"""What becomes of a message, by what its handler does."""

import asyncio
import threading
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from conftest import eventually

import pgqrs
import pgqrs.sync


async def outcome(store: pgqrs.Store, id: int) -> Any:
    """Where the message is and after how many attempts."""
    admin = pgqrs.admin(store)
    live, archived = await admin.message(id), await admin.archived(id)
    assert (live is None) != (archived is None)
    return (live.state, live.attempts) if live else (archived.outcome, archived.attempts)


@pytest.mark.parametrize("returned", [True, None, 0, "", {"done": 1}])
async def test_all_but_false_archives(store: pgqrs.Store, queue: str, returned: Any) -> None:
    id = await store.enqueue(queue, "job")

    async def handler(msg: pgqrs.Message) -> Any:
        return returned

    assert await pgqrs.consume(store, queue, handler) == 1
    assert await outcome(store, id) == ("done", 1)


@pytest.mark.parametrize("threaded", [False, True])
async def test_false_gives_back_after_the_retry_delay_and_counts_no_attempt(
    store: pgqrs.Store, queue: str, threaded: bool
) -> None:
    await pgqrs.admin(store).update_queue(queue, retry=pgqrs.Backoff.fixed(3600))
    id = await store.enqueue(queue, "job")

    async def handler(msg: pgqrs.Message) -> bool:
        return False

    before = datetime.now(timezone.utc)
    handled = await pgqrs.consume(store, queue, (lambda _: False) if threaded else handler)
    assert handled == 1
    assert await outcome(store, id) == ("delayed", 0)
    message = await pgqrs.admin(store).message(id)
    assert message and message.visible_at - before > timedelta(minutes=59)
    assert await pgqrs.consume(store, queue, handler) == 0


@pytest.mark.parametrize("threaded", [False, True])
async def test_an_exception_fails_with_its_traceback(
    store: pgqrs.Store, queue: str, threaded: bool
) -> None:
    id = await store.enqueue(queue, "job", max_attempts=2)

    def broken(msg: pgqrs.Message) -> None:
        raise ValueError("no such printer \ud800")

    async def handler(msg: pgqrs.Message) -> None:
        broken(msg)

    await pgqrs.consume(store, queue, broken if threaded else handler)
    assert await outcome(store, id) == ("ready", 1)
    await pgqrs.consume(store, queue, broken if threaded else handler)
    [letter] = await pgqrs.admin(store).dead_letters(queue)
    assert letter.id == id and letter.attempts == 2
    assert letter.last_error is not None
    assert letter.last_error.startswith("Traceback")
    assert "in broken" in letter.last_error and "_handler.py" not in letter.last_error
    assert letter.last_error.endswith("ValueError: no such printer \\ud800")


async def test_of_a_long_error_the_end_is_kept(store: pgqrs.Store, queue: str) -> None:
    id = await store.enqueue(queue, "job")

    def handler(msg: pgqrs.Message) -> None:
        raise ValueError("é" * 20_000 + " the end")

    await pgqrs.consume(store, queue, handler)
    message = await pgqrs.admin(store).message(id)
    assert message and message.last_error
    assert message.last_error.startswith("Traceback") and message.last_error.endswith("the end")
    assert len(message.last_error.encode()) <= 8192


async def test_a_handler_says_when_it_is_tried_again(store: pgqrs.Store, queue: str) -> None:
    id = await store.enqueue(queue, "job")

    def later(msg: pgqrs.Message) -> None:
        raise pgqrs.Retry.after(3600, "the printer is busy")

    def never(msg: pgqrs.Message) -> None:
        raise pgqrs.Retry.never("no such printer")

    await pgqrs.consume(store, queue, later)
    message = await pgqrs.admin(store).message(id)
    assert message and message.last_error == "the printer is busy" and message.state == "delayed"
    other = await store.enqueue(queue, "job")
    await pgqrs.consume(store, queue, never)
    letter = await pgqrs.admin(store).archived(other)
    assert letter and (letter.outcome, letter.last_error) == ("dead", "no such printer")


async def test_one_bad_message_does_not_hold_up_its_batch(store: pgqrs.Store, queue: str) -> None:
    await store.enqueue_many(queue, range(5))
    seen = []

    async def handler(msg: pgqrs.Message) -> None:
        seen.append(msg.payload)
        if msg.payload == 2:
            raise RuntimeError("poison")

    assert await pgqrs.consume(store, queue, handler, batch_size=10) == 5
    assert seen == [0, 1, 2, 3, 4]
    [metrics] = await pgqrs.admin(store).metrics(queue)
    assert (metrics.archived, metrics.ready, metrics.leased) == (4, 1, 0)


async def test_sync_handlers_run_in_a_thread_and_may_return_awaitables(
    store: pgqrs.Store, queue: str
) -> None:
    await store.enqueue_many(queue, range(2))
    threads = []

    async def rest(msg: pgqrs.Message) -> bool:
        return msg.payload != 1

    def handler(msg: pgqrs.Message) -> Any:
        threads.append(threading.current_thread())
        return rest(msg)

    await pgqrs.consume(store, queue, handler, batch_size=2)
    assert threading.main_thread() not in threads and len(threads) == 2
    [metrics] = await pgqrs.admin(store).metrics(queue)
    assert (metrics.archived, metrics.ready) == (1, 1)


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt])
async def test_a_thread_may_raise_anything(
    store: pgqrs.Store, queue: str, error: type[BaseException]
) -> None:
    id = await store.enqueue(queue, "job")

    def handler(msg: pgqrs.Message) -> None:
        raise error()

    await pgqrs.consume(store, queue, handler)
    assert await outcome(store, id) == ("ready", 1)


async def test_leases_are_renewed_while_a_handler_blocks_the_event_loop(
    store: pgqrs.Store, queue: str
) -> None:
    id, waits = await store.enqueue_many(queue, ["first", "second"])

    async def handler(msg: pgqrs.Message) -> None:
        if msg.payload == "first":
            other = pgqrs.sync.Store(store)
            admin = pgqrs.sync.admin(other)
            # Both leases outlast their first timeout, though the event loop stands still.
            for held in (id, waits):
                while admin.message(held).visible_at < msg.visible_at + timedelta(milliseconds=400):
                    pass

    assert await pgqrs.consume(store, queue, handler, batch_size=2, vt=0.5) == 2
    assert await outcome(store, id) == ("done", 1)
    assert await outcome(store, waits) == ("done", 1)


async def test_cancellation_gives_back_what_was_not_handled(store: pgqrs.Store, queue: str) -> None:
    ids = await store.enqueue_many(queue, range(5))
    started = asyncio.Event()

    async def handler(msg: pgqrs.Message) -> None:
        if msg.payload == 1:
            started.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(pgqrs.consume(store, queue, handler, batch_size=5, vt=3600))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [await outcome(store, id) for id in ids] == [("done", 1)] + [("ready", 0)] * 4


async def test_cancellation_waits_for_a_thread_and_keeps_its_outcome(
    store: pgqrs.Store, queue: str
) -> None:
    first, second = await store.enqueue_many(queue, range(2))
    loop, started, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def handler(msg: pgqrs.Message) -> None:
        loop.call_soon_threadsafe(started.set)
        go_on.wait()

    task = asyncio.ensure_future(pgqrs.consume(store, queue, handler, batch_size=2, vt=3600))
    await started.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await outcome(store, first) == ("done", 1)
    assert await outcome(store, second) == ("ready", 0)


async def test_a_cancelled_dequeue_leaves_nothing_leased(store: pgqrs.Store, queue: str) -> None:
    await store.enqueue_many(queue, range(10))
    consumer = await store.consumer(queue)

    async def all_ready() -> bool:
        [metrics] = await pgqrs.admin(store).metrics(queue)
        return metrics.ready == 10

    for turns in range(20):
        task = asyncio.ensure_future(consumer.dequeue(batch_size=10, vt=3600))
        for _ in range(turns % 4):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(all_ready)


async def test_a_lost_lease_is_not_settled_and_not_an_error(store: pgqrs.Store, queue: str) -> None:
    id = await store.enqueue(queue, "job")

    async def handler(msg: pgqrs.Message) -> None:
        await store.delete(msg)

    assert await pgqrs.consume(store, queue, handler) == 1
    assert await pgqrs.admin(store).message(id) is None
    assert await pgqrs.admin(store).archived(id) is None
