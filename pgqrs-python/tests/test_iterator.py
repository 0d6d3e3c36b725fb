"""``consume_iter``."""

import asyncio
from datetime import timedelta

import pytest
from conftest import asyncio_timeout, counts, eventually

import pgqrs


async def test_leaving_the_block_gives_back_what_was_not_settled(
    store: pgqrs.Store, queue: str
) -> None:
    await store.enqueue_many(queue, range(6))
    with pytest.raises(RuntimeError, match="left"):
        async with store.consume_iter(queue, batch_size=4, vt=3600) as iterator:
            async for msg in iterator:
                if msg.payload == 0:
                    await iterator.archive(msg.id)
                elif msg.payload == 1:
                    await iterator.delete(msg)
                elif msg.payload == 2:
                    assert await counts(store, queue) == (2, 2, 1)
                    raise RuntimeError("left")
    assert await counts(store, queue) == (4, 0, 1)
    [message] = await store.dequeue(queue)
    assert (message.payload, message.attempts) == (4, 1)


async def test_it_waits_for_messages_and_ends_when_idle(store: pgqrs.Store, queue: str) -> None:
    seen = []

    async def consume() -> None:
        async with store.consume_iter(queue, idle=2) as iterator:
            async for msg in iterator:
                seen.append(msg.payload)
                await iterator.archive(msg.id)

    async def one_is_seen() -> bool:
        return len(seen) == 1

    task = asyncio.ensure_future(consume())
    await store.enqueue(queue, "a")
    await eventually(one_is_seen)
    await store.enqueue(queue, "b", delay=0.2)
    await task
    assert seen == ["a", "b"]


async def test_messages_that_are_held_stay_held_while_others_come(
    store: pgqrs.Store, queue: str
) -> None:
    await store.enqueue_many(queue, range(3))
    async with store.consume_iter(queue, vt=0.3, idle=0) as iterator:
        held = [msg async for msg in iterator]
        assert [msg.payload for msg in held] == [0, 1, 2]

        async def renewed() -> bool:
            live = [await pgqrs.admin(store).message(msg.id) for msg in held]
            grown = [m and m.visible_at - msg.visible_at for m, msg in zip(live, held)]
            return all(more and more > timedelta(seconds=0.3) for more in grown)

        await eventually(renewed)
        assert await iterator.archive_many([msg.id for msg in held]) == [True, True, True]


async def test_an_extension_is_not_cut_short_by_a_renewal(store: pgqrs.Store, queue: str) -> None:
    first, _ = await store.enqueue_many(queue, range(2))
    async with store.consume_iter(queue, vt=0.3, batch_size=2) as iterator:
        msg = await iterator.__anext__()
        other = await iterator.__anext__()
        until = await iterator.extend_vt(msg.id, 3600)

        async def other_is_renewed() -> bool:
            live = await pgqrs.admin(store).message(other.id)
            return live is not None and live.visible_at > other.visible_at

        await eventually(other_is_renewed)
        live = await pgqrs.admin(store).message(first)
        assert live and live.visible_at == until


async def test_failing_and_releasing(store: pgqrs.Store, queue: str) -> None:
    await store.enqueue_many(queue, range(3), max_attempts=2)
    async with store.consume_iter(queue, batch_size=3) as iterator:
        first, second, third = [await iterator.__anext__() for _ in range(3)]
        assert await iterator.fail(first.id, "broken") == "retrying"
        await iterator.release(second.id, delay=60)
        await iterator.bury(third, "poison")
    [letter] = await pgqrs.admin(store).dead_letters(queue)
    assert (letter.id, letter.last_error) == (third.id, "poison")
    again = await pgqrs.admin(store).message(second.id)
    assert again and (again.state, again.attempts) == ("delayed", 0)


async def test_ids_that_it_does_not_hold_are_lost(store: pgqrs.Store, queue: str) -> None:
    async with store.consume_iter(queue) as iterator:
        with pytest.raises(pgqrs.LeaseLostError) as lost:
            await iterator.archive(123)
    assert lost.value.id == 123


async def test_cancelled_while_waiting(store: pgqrs.Store, queue: str) -> None:
    async def consume() -> None:
        async with store.consume_iter(queue) as iterator:
            async for msg in iterator:
                raise AssertionError(msg)

    task = asyncio.ensure_future(consume())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.enqueue(queue, "a")
    # The claim on its way may still take the message, and then gives it back.
    async with asyncio_timeout(20), store.consume_iter(queue) as iterator:
        message = await iterator.__anext__()
        assert (message.payload, message.attempts) == ("a", 1)
        await iterator.archive(message)


async def test_without_a_block_it_says_how_to_use_it(store: pgqrs.Store, queue: str) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await store.consume_iter(queue).__anext__()
