"""The operator's face."""

from datetime import timedelta

import pytest

import pgqrs


async def test_queues_and_their_settings(store: pgqrs.Store, queue: str) -> None:
    admin = pgqrs.admin(store)
    await admin.install()
    await admin.verify()
    backoff = pgqrs.Backoff.exponential(2, timedelta(minutes=1))
    changed = await admin.update_queue(queue, vt=60, max_attempts=3, retry=backoff)
    assert (changed.visibility_timeout, changed.max_attempts) == (timedelta(minutes=1), 3)
    assert changed.retry == backoff and changed.retention is None
    assert (await admin.retention(queue, timedelta(days=7))).retention == timedelta(days=7)
    assert (await admin.retention(queue, None)).retention is None
    assert (await admin.pause(queue)).paused
    await store.enqueue(queue, 1)
    assert await store.dequeue(queue) == []
    assert not (await admin.resume(queue)).paused
    [found] = await admin.queues(queue)
    assert found == await store.create_queue(queue, vt=5)
    with pytest.raises(pgqrs.QueueNotEmptyError) as full:
        await admin.delete_queue(queue)
    assert (full.value.queue, full.value.live) == (queue, 1)
    await admin.delete_queue(queue, force=True)
    assert await admin.queues(queue) == []


async def test_dead_letters_come_in_pages_and_can_be_redriven(
    store: pgqrs.Store, queue: str
) -> None:
    admin = pgqrs.admin(store)
    ids = await store.enqueue_many(queue, range(5), headers={"h": 1})
    for message in await store.dequeue(queue, batch_size=5):
        await store.bury(message, "poison")
    pages: list[int] = []
    while page := await admin.dead_letters(queue, after=pages[-1] if pages else None, limit=2):
        assert len(page) <= 2
        pages += [letter.id for letter in page]
    assert pages == ids
    assert await admin.redrive(queue, [ids[2], 999_999_999]) == [ids[2]]
    assert await admin.redrive(queue, limit=1) == [ids[0]]
    [first, second] = await admin.messages(queue, state="ready")
    assert (first.id, first.attempts, first.headers) == (ids[0], 0, {"h": 1})
    assert await admin.purge(queue, "live") == 2
    assert await admin.purge(queue, "dead") == 3
    assert await admin.archive(queue) == []


async def test_metrics_and_workers(store: pgqrs.Store, queue: str) -> None:
    admin = pgqrs.admin(store)
    consumer = await store.consumer(queue)
    await store.enqueue_many(queue, range(3))
    await store.enqueue(queue, 4, delay=3600)
    [first, *_] = await consumer.dequeue(batch_size=2)
    await consumer.archive(first)
    [metrics] = await admin.metrics(queue)
    counts = (metrics.ready, metrics.delayed, metrics.leased, metrics.archived, metrics.live)
    assert counts == (1, 1, 1, 1, 3)
    assert metrics.oldest_ready_age is not None and metrics.workers_ready == 1
    [held] = await admin.messages(queue, worker=consumer.id)
    assert held.state == "leased"
    await admin.suspend_worker(consumer.id)
    assert (await consumer.status()).state == "suspended"
    await admin.resume_worker(consumer.id)
    await admin.stop_worker(consumer.id)
    assert [w.id for w in await admin.workers(queue, state="stopped")] == [consumer.id]
    with pytest.raises(pgqrs.WorkerNotFoundError):
        await admin.stop_worker(999_999_999)
    assert (await admin.sweep()).workers_stopped >= 0


async def test_the_doctor_says_what_it_found(store: pgqrs.Store) -> None:
    for finding in await pgqrs.admin(store).doctor():
        assert finding.health in ("well", "ailing", "unknown")
        assert finding.check in str(finding) and finding.detail in str(finding)
        assert (finding.advice is None) == (finding.health == "well")


async def test_unknown_words_are_refused(store: pgqrs.Store, queue: str) -> None:
    admin = pgqrs.admin(store)
    for call in (
        lambda: admin.messages(queue, state="gone"),
        lambda: admin.archive(queue, outcome="gone"),
        lambda: admin.purge(queue, "all"),
        lambda: admin.workers(queue, state="gone"),
    ):
        with pytest.raises(ValueError, match="there are"):
            await call()
