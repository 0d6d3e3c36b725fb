"""Workers for long runs."""

import asyncio
import os
import signal
import threading
from typing import Any

import pytest
from conftest import eventually

import pgqrs


async def metrics(store: pgqrs.Store, queue: str) -> pgqrs.QueueMetrics:
    [found] = await pgqrs.admin(store).metrics(queue)
    return found


async def test_every_outcome(store: pgqrs.Store, queue: str) -> None:
    outcomes: dict[Any, Any] = {
        "true": True, "none": None, "false": False, "error": ValueError("broken"),
        "later": pgqrs.Retry.after(3600, "busy"), "never": pgqrs.Retry.never("poison"),
    }  # fmt: skip
    await pgqrs.admin(store).update_queue(queue, retry=pgqrs.Backoff.fixed(3600))
    ids = dict(zip(outcomes, await store.enqueue_many(queue, outcomes)))

    async def handler(msg: pgqrs.Message) -> Any:
        if isinstance(outcomes[msg.payload], Exception):
            raise outcomes[msg.payload]
        return outcomes[msg.payload]

    async def all_are_settled() -> bool:
        now = await metrics(store, queue)
        return now.ready == 0 and now.leased == 0

    worker = pgqrs.Worker(store, queue, handler, concurrency=3)
    run = asyncio.ensure_future(worker.run(signals=False))
    await eventually(all_are_settled)
    worker.stop()
    report = await run
    assert report == pgqrs.Report(handled=2, failed=2, dead=1, released=1, lost=0, unsettled=0)
    admin = pgqrs.admin(store)
    live = {name: await admin.message(id) for name, id in ids.items()}
    assert {name: m.attempts for name, m in live.items() if m} == {"false": 0, "error": 1, "later": 1}
    assert live["error"] and "ValueError: broken" in str(live["error"].last_error)
    assert live["later"] and live["later"].last_error == "busy"
    letter = await admin.archived(ids["never"])
    assert letter and (letter.outcome, letter.last_error) == ("dead", "poison")


@pytest.mark.parametrize("threaded", [False, True])
async def test_handlers_run_at_once_up_to_the_concurrency(
    store: pgqrs.Store, queue: str, threaded: bool
) -> None:
    await store.enqueue_many(queue, range(8))
    barrier, loop = threading.Barrier(4), asyncio.get_running_loop()
    working, most = 0, 0
    met = asyncio.Event()

    async def handler(msg: pgqrs.Message) -> None:
        nonlocal working, most
        working += 1
        most = max(most, working)
        if working == 4:
            met.set()
        await met.wait()
        working -= 1

    def in_thread(msg: pgqrs.Message) -> None:
        barrier.wait(timeout=20)

    worker = pgqrs.Worker(store, queue, in_thread if threaded else handler, concurrency=4)

    async def all_are_done() -> bool:
        return (await metrics(store, queue)).archived == 8

    run = asyncio.ensure_future(worker.run(signals=False))
    await eventually(all_are_done)
    worker.stop()
    assert (await run).handled == 8
    assert threaded or most == 4


async def test_a_stopping_worker_lets_handlers_finish(store: pgqrs.Store, queue: str) -> None:
    await store.enqueue_many(queue, range(10))
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handler(msg: pgqrs.Message) -> None:
        started.set()
        await go_on.wait()

    worker = pgqrs.Worker(store, queue, handler, concurrency=2)
    run = asyncio.ensure_future(worker.run(signals=False))
    await started.wait()
    worker.stop()

    async def others_are_back() -> bool:
        return (await metrics(store, queue)).leased <= 2

    await eventually(others_are_back)
    go_on.set()
    report = await run
    now = await metrics(store, queue)
    assert 1 <= report.handled <= 2 and report.handled == now.archived
    assert now.ready == 10 - now.archived and now.leased == 0


async def test_after_the_grace_handlers_are_cancelled(store: pgqrs.Store, queue: str) -> None:
    id = await store.enqueue(queue, "job")
    started, cancelled = asyncio.Event(), []

    async def handler(msg: pgqrs.Message) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(msg.id)
            raise

    worker = pgqrs.Worker(store, queue, handler, grace=0.05)
    run = asyncio.ensure_future(worker.run(signals=False))
    await started.wait()
    worker.stop()
    report = await run
    assert (report.released, cancelled) == (1, [id])
    message = await pgqrs.admin(store).message(id)
    assert message and (message.state, message.attempts) == ("ready", 0)


async def test_a_handler_that_takes_too_long_fails(store: pgqrs.Store, queue: str) -> None:
    id = await store.enqueue(queue, "job", max_attempts=1)

    async def handler(msg: pgqrs.Message) -> None:
        await asyncio.Event().wait()

    worker = pgqrs.Worker(store, queue, handler, timeout=0.05)
    run = asyncio.ensure_future(worker.run(signals=False))

    async def is_dead() -> bool:
        return (await metrics(store, queue)).dead == 1

    await eventually(is_dead)
    worker.stop()
    await run
    letter = await pgqrs.admin(store).archived(id)
    assert letter and "timed out" in str(letter.last_error)


async def test_a_cancelled_run_gives_back_what_is_in_work(store: pgqrs.Store, queue: str) -> None:
    await store.enqueue_many(queue, range(10))
    started = asyncio.Event()

    async def handler(msg: pgqrs.Message) -> None:
        started.set()
        await asyncio.Event().wait()

    worker = pgqrs.Worker(store, queue, handler, concurrency=3)
    run = asyncio.ensure_future(worker.run(signals=False))
    await started.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    now = await metrics(store, queue)
    assert (now.ready, now.leased) == (10, 0)
    messages = await pgqrs.admin(store).messages(queue)
    assert {message.attempts for message in messages} == {0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_and_a_second_one_ends_the_grace(
    store: pgqrs.Store, queue: str, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    await store.enqueue(queue, "job")
    started = asyncio.Event()

    async def handler(msg: pgqrs.Message) -> None:
        started.set()
        await asyncio.Event().wait()

    others = pgqrs.Worker(store, queue, handler)
    worker = pgqrs.Worker(store, queue, handler, grace=3600)
    runs = asyncio.gather(worker.run(), others.run())
    await started.wait()
    os.kill(os.getpid(), number)
    done, _ = await asyncio.wait([runs], timeout=0.2)
    assert not done
    os.kill(os.getpid(), number)
    reports = await runs
    assert sum(report.handled for report in reports) == 0
    assert signal.getsignal(number) == before
    assert (await metrics(store, queue)).ready == 1


async def test_an_identity_that_is_taken_over_ends_the_run(store: pgqrs.Store, queue: str) -> None:
    started = asyncio.Event()
    await store.enqueue(queue, "job")

    async def handler(msg: pgqrs.Message) -> None:
        started.set()

    worker = pgqrs.Worker(store, queue, handler, host="here", port=1, poll_interval=0.05)
    run = asyncio.ensure_future(worker.run(signals=False))
    await started.wait()
    successor = await store.consumer(queue, host="here", port=1)
    with pytest.raises(pgqrs.WorkerNotReadyError) as replaced:
        await run
    assert replaced.value.replaced_by == successor.id


async def test_a_worker_runs_once_and_checks_its_options(store: pgqrs.Store, queue: str) -> None:
    worker = pgqrs.Worker(store, queue, print)
    worker.stop()
    assert (await worker.run(signals=False)).handled == 0
    with pytest.raises(RuntimeError, match="make a new one"):
        await worker.run()
    for concurrency in (0, -1, 10_001):
        with pytest.raises(pgqrs.OutOfRangeError):
            await pgqrs.Worker(store, queue, print, concurrency=concurrency).run(signals=False)
