"""The methods of consumers and stores as functions."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Optional

from ._consumer import Consumer
from ._native import Message
from ._settling import MessageOrId, Settling
from ._store import Store
from ._units import Duration


async def dequeue(
    consumer: Consumer,
    *,
    batch_size: int = 1,
    vt: Optional[Duration] = None,
    at: Optional[datetime] = None,
) -> list[Message]:
    """Takes up to ``batch_size`` messages and holds them for ``vt``, by default the queue's setting.

    >>> import asyncio, pgqrs
    >>> async def main():
    ...     store = await pgqrs.connect("sqlite::memory:")
    ...     await store.create_queue("tasks")
    ...     await store.enqueue("tasks", "a job")
    ...     consumer = await store.consumer("tasks")
    ...     for msg in await pgqrs.dequeue(consumer, batch_size=10, vt=60):
    ...         print(msg.payload, msg.attempts)
    ...         await pgqrs.archive(consumer, msg)
    >>> asyncio.run(main())
    a job 1
    """
    return await consumer.dequeue(batch_size=batch_size, vt=vt, at=at)


async def archive(holder: Settling, message: MessageOrId) -> None:
    """Archives a message as done. ``holder`` is what it was taken with: a consumer, a store or an
    iterator."""
    await holder.archive(message)


async def delete(holder: Settling, message: MessageOrId) -> None:
    """Deletes a message for good."""
    await holder.delete(message)


async def extend_vt(holder: Settling, message: MessageOrId, vt: Duration) -> datetime:
    """Holds a message for ``vt`` from now on (1 ms to 12 h); returns when that ends."""
    return await holder.extend_vt(message, vt)


async def release(holder: Settling, message: MessageOrId, delay: Duration = 0) -> None:
    """Gives a message back, claimable after ``delay``; the attempt does not count."""
    await holder.release(message, delay)


async def fail(
    holder: Settling,
    message: MessageOrId,
    error: str,
    *,
    retry_after: Optional[Duration] = None,
) -> str:
    """Records a failed attempt; see :meth:`Consumer.fail`."""
    return await holder.fail(message, error, retry_after=retry_after)


async def enqueue_in(
    connection: Any, store: Store, queue: str, payload: Any, **options: Any
) -> int:
    """Enqueues a message in the transaction that ``connection`` is in; see :meth:`Store.enqueue_in`,
    also for the options."""
    return await store.enqueue_in(connection, queue, payload, **options)


async def archive_in(connection: Any, store: Store, message: Message) -> None:
    """Archives a message in the transaction that ``connection`` is in; see
    :meth:`Store.archive_in`."""
    await store.archive_in(connection, message)
