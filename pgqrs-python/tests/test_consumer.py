"""Registered consumers and producers, and what they do with leases."""

import asyncio
from datetime import datetime, timedelta, timezone

import pytest

import pgqrs


async def test_by_id_acts_on_the_newest_lease_and_a_message_on_its_own(
    store: pgqrs.Store, queue: str
) -> None:
    await store.enqueue(queue, "job")
    consumer = await store.consumer(queue)
    [old] = await pgqrs.dequeue(consumer, vt=60)
    later = datetime.now(timezone.utc) + timedelta(minutes=2)
    [new] = await consumer.dequeue(vt=60, at=later)
    assert new.id == old.id and new.token > old.token
    with pytest.raises(pgqrs.LeaseLostError) as lost:
        await pgqrs.archive(consumer, old)
    assert lost.value.id == old.id
    await consumer.archive(new.id)
    await consumer.archive(new.id)
    await pgqrs.archive(consumer, new)


async def test_what_a_consumer_does_not_hold_it_cannot_settle(
    store: pgqrs.Store, queue: str
) -> None:
    await store.enqueue_many(queue, range(3))
    consumer, other = await store.consumer(queue), await store.consumer(queue)
    first, second, third = await consumer.dequeue(batch_size=3)
    with pytest.raises(pgqrs.LeaseLostError):
        await other.archive(first.id)
    assert await consumer.archive_many([first.id, 12345, second]) == [True, False, True]
    assert await consumer.delete_many([third, third]) == [True, False]


async def test_settling(store: pgqrs.Store, queue: str) -> None:
    await store.enqueue_many(queue, range(4), max_attempts=1)
    consumer = await store.consumer(queue)
    a, b, c, d = await consumer.dequeue(batch_size=4)
    assert await consumer.fail(a.id, "broken") == "dead"
    await consumer.bury(b, "poison")
    await pgqrs.release(consumer, c, delay=timedelta(hours=1))
    before = datetime.now(timezone.utc)
    assert (await consumer.extend_vt(d.id, 600)) > before + timedelta(seconds=590)
    assert await consumer.extend_vt_many([d], 60) == [True]
    letters = await pgqrs.admin(store).dead_letters(queue)
    assert [(m.id, m.last_error) for m in letters] == [(a.id, "broken"), (b.id, "poison")]
    assert await consumer.release_many([d]) == [True]


async def test_a_failed_message_is_retried_after_what_was_asked(
    store: pgqrs.Store, queue: str
) -> None:
    await store.enqueue(queue, 1)
    [message] = await store.dequeue(queue)
    assert await pgqrs.fail(store, message, "busy", retry_after=3600) == "retrying"
    live = await pgqrs.admin(store).message(message.id)
    assert live and (live.state, live.attempts, live.last_error) == ("delayed", 1, "busy")


async def test_times_and_limits_are_checked(store: pgqrs.Store, queue: str) -> None:
    consumer = await store.consumer(queue)
    for size in (0, -1, 10_001):
        with pytest.raises(pgqrs.OutOfRangeError) as wrong:
            await consumer.dequeue(batch_size=size)
        assert wrong.value.value == str(size) and wrong.value.allowed == "1 to 10000"
    for vt in (0, -1, 43_201, timedelta(days=1), 1e300):
        with pytest.raises(pgqrs.OutOfRangeError):
            await consumer.dequeue(vt=vt)
    for delay in (-0.5, 1e9, timedelta(days=4000)):
        with pytest.raises(pgqrs.OutOfRangeError):
            await store.enqueue(queue, 1, delay=delay)
    for priority in (-1, 10, 300):
        with pytest.raises(pgqrs.OutOfRangeError):
            await store.enqueue(queue, 1, priority=priority)
    with pytest.raises(pgqrs.OutOfRangeError):
        await store.enqueue_many(queue, [])
    with pytest.raises(ValueError, match="time zone"):
        await consumer.dequeue(at=datetime(2026, 1, 1))
    with pytest.raises(TypeError):
        await consumer.dequeue(vt="30")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN"):
        await consumer.dequeue(vt=float("nan"))


async def test_times_are_in_utc_and_to_the_microsecond(store: pgqrs.Store, queue: str) -> None:
    now = datetime.now(timezone(timedelta(hours=5)))
    await store.enqueue(queue, 1, at=now, delay=0.1)
    assert await store.dequeue(queue, at=now + timedelta(microseconds=99_999)) == []
    [message] = await store.dequeue(queue, at=now + timedelta(microseconds=100_000), vt=60)
    assert message.enqueued_at == now and message.enqueued_at.tzinfo == timezone.utc
    assert message.visible_at - message.claimed_at == timedelta(seconds=60)


async def test_the_life_of_a_worker(store: pgqrs.Store, queue: str) -> None:
    await store.enqueue(queue, "job")
    consumer = await store.consumer(queue, host="here", port=3001, heartbeat_timeout=15)
    record = await consumer.status()
    assert (record.state, record.host, record.port) == ("ready", "here", 3001)
    assert record.heartbeat_timeout == timedelta(seconds=15)
    await consumer.heartbeat()
    await consumer.suspend()
    with pytest.raises(pgqrs.WorkerNotReadyError) as suspended:
        await consumer.dequeue()
    assert (suspended.value.worker, suspended.value.state) == (consumer.id, "suspended")
    with pytest.raises(pgqrs.IllegalTransitionError) as illegal:
        await consumer.suspend()
    assert (illegal.value.state, illegal.value.target) == ("suspended", "suspended")
    await consumer.resume()
    [message] = await consumer.dequeue(vt=3600)
    await consumer.shutdown()
    with pytest.raises(pgqrs.LeaseLostError):
        await consumer.archive(message)
    [again] = await store.dequeue(queue)
    assert (again.id, again.attempts) == (message.id, 1)


async def test_an_identity_replaces_the_one_before(store: pgqrs.Store, queue: str) -> None:
    first = await store.consumer(queue, host="here", port=3001)
    second = await store.consumer(queue, host="here", port=3001)
    with pytest.raises(pgqrs.WorkerNotReadyError) as replaced:
        await first.dequeue()
    assert replaced.value.replaced_by == second.id
    assert [w.id for w in await pgqrs.admin(store).workers(queue, state="ready")] == [second.id]


async def test_producers(store: pgqrs.Store, queue: str) -> None:
    producer = await store.producer(queue)
    ids = await producer.enqueue_many(["a", "b"], priority=1)
    urgent = await producer.enqueue("c", priority=9, headers={"k": "v"})
    assert ids == sorted(ids) and urgent > ids[-1]
    messages = await store.dequeue(queue, batch_size=3)
    assert [m.payload for m in messages] == ["c", "a", "b"]
    assert messages[0].headers == {"k": "v"} and messages[1].headers == {}
    await producer.suspend()
    with pytest.raises(pgqrs.WorkerNotReadyError):
        await producer.enqueue("d")


async def test_calls_at_once_of_a_suspended_producer_all_enqueue_nothing(
    store: pgqrs.Store, queue: str
) -> None:
    producer = await store.producer(queue)
    await producer.enqueue("before")
    await producer.suspend()
    calls = (producer.enqueue(n) for n in range(50))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {pgqrs.WorkerNotReadyError}
    await producer.resume()
    assert len(await asyncio.gather(*(producer.enqueue(n) for n in range(50)))) == 50
    [metrics] = await pgqrs.admin(store).metrics(queue)
    assert metrics.ready == 51


async def test_a_hundred_tasks_enqueue_at_once(store: pgqrs.Store, queue: str) -> None:
    ids = await asyncio.gather(*(store.enqueue(queue, n) for n in range(100)))
    assert len(set(ids)) == 100
    taken = await store.dequeue(queue, batch_size=1000)
    assert {m.id: m.payload for m in taken} == {id: n for n, id in enumerate(ids)}


async def test_a_store_settles_messages_not_ids(store: pgqrs.Store, queue: str) -> None:
    with pytest.raises(TypeError, match="consumer"):
        await store.archive(1)
    with pytest.raises(TypeError, match="consumer"):
        await store.fail(1, "why")
