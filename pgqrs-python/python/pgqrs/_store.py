"""Stores: one database, one set of queues."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Optional

from . import _caller, _native
from ._admin import admin
from ._bridge import call
from ._codec import Codec
from ._consumer import Consumer, Producer, encoded, object_of
from ._iterator import MessageIterator
from ._native import Action, Message
from ._records import Backoff, Queue
from ._settling import MessageOrId, Settling
from ._transaction import Transaction
from ._units import Duration, micros, optional_micros, utc


async def connect(url: str) -> Store:
    """Opens the store that ``url`` names.

    ``sqlite:///jobs.db`` is a file in the working folder, ``sqlite:////var/lib/jobs.db`` an absolute
    one, ``sqlite::memory:`` in memory; these install their schema by themselves. On
    ``postgresql://…`` call ``await pgqrs.admin(store).install()`` once.

    >>> import asyncio
    >>> async def main():
    ...     store = await connect("sqlite::memory:")
    ...     await store.create_queue("tasks")
    ...     await store.enqueue("tasks", {"to": "ada@example.org"})
    ...     [message] = await store.dequeue("tasks")
    ...     print(message.payload)
    ...     await store.archive(message)
    >>> asyncio.run(main())
    {'to': 'ada@example.org'}
    """
    return Store(await call(_native.connect, url))


class Store(Settling):
    """A message store, made by :func:`connect`. Any number of tasks, threads and event loops may
    share it; a forked child must connect by itself."""

    def __init__(self, native: _native.Store) -> None:
        self._native = native

    async def create_queue(
        self,
        name: str,
        *,
        vt: Optional[Duration] = None,
        max_attempts: Optional[int] = None,
        retry: Optional[Backoff] = None,
        retention: Optional[Duration] = None,
    ) -> Queue:
        """Creates a queue; one that exists stays as it is. See :meth:`Admin.create_queue`."""
        return await admin(self).create_queue(
            name, vt=vt, max_attempts=max_attempts, retry=retry, retention=retention
        )

    async def enqueue(
        self,
        queue: str,
        payload: Any,
        *,
        headers: Optional[Mapping[str, Any]] = None,
        priority: int = 4,
        delay: Duration = 0,
        max_attempts: Optional[int] = None,
        at: Optional[datetime] = None,
        codec: Optional[Codec[Any]] = None,
    ) -> int:
        """Enqueues one message and returns its id.

        ``payload`` is any JSON value, or what ``codec`` makes one of. ``priority`` is 0 to 9, higher
        first. It is not claimable before ``delay`` (seconds or a ``timedelta``) has passed. After
        ``max_attempts`` (the queue's setting) it becomes a dead letter. ``at`` is the instant to act
        at, for tests.
        """
        (id,) = await self.enqueue_many(
            queue,
            [payload],
            headers=headers,
            priority=priority,
            delay=delay,
            max_attempts=max_attempts,
            at=at,
            codec=codec,
        )
        return id

    async def enqueue_many(
        self,
        queue: str,
        payloads: Iterable[Any],
        *,
        headers: Optional[Mapping[str, Any]] = None,
        priority: int = 4,
        delay: Duration = 0,
        max_attempts: Optional[int] = None,
        at: Optional[datetime] = None,
        codec: Optional[Codec[Any]] = None,
    ) -> list[int]:
        """Enqueues 1 to 10,000 messages, all or none, and returns their ids in order."""
        values = encoded(payloads, codec)
        options = (object_of(headers), priority, micros(delay), max_attempts, utc(at))
        return await call(self._native.enqueue, queue, values, *options)  # type: ignore[no-any-return]

    async def dequeue(
        self,
        queue: str,
        *,
        batch_size: int = 1,
        vt: Optional[Duration] = None,
        at: Optional[datetime] = None,
    ) -> list[Message]:
        """Takes up to ``batch_size`` messages and holds them for ``vt`` (the queue's setting).

        Settle them with this store's methods, which take the messages.
        """
        messages, _ = await self._claim(queue, batch_size, optional_micros(vt), utc(at))
        return messages

    async def consumer(
        self,
        queue: str,
        *,
        host: Optional[str] = None,
        port: int = 0,
        heartbeat_timeout: Optional[Duration] = None,
        at: Optional[datetime] = None,
    ) -> Consumer:
        """Registers a consumer.

        ``host`` (this machine's name) and ``port`` are its identity: registering it again replaces
        the earlier registration at once. Port 0 is no identity and replaces nobody. With a
        ``heartbeat_timeout`` (100 ms to 24 h) a sweep frees what it holds when it has been silent for
        so long; this process sends the heartbeats until the consumer is garbage collected.
        """
        identity = (self._native, queue, host or socket.gethostname(), port)
        timeout = optional_micros(heartbeat_timeout)
        return Consumer(self, await call(_native.Consumer.register, *identity, timeout, utc(at)))

    async def producer(
        self,
        queue: str,
        *,
        host: Optional[str] = None,
        port: int = 0,
        heartbeat_timeout: Optional[Duration] = None,
        codec: Optional[Codec[Any]] = None,
    ) -> Producer:
        """Registers a producer; its identity works as for :meth:`consumer`."""
        identity = (self._native, queue, host or socket.gethostname(), port)
        timeout = optional_micros(heartbeat_timeout)
        return Producer(await call(_native.Producer.register, *identity, timeout, None), codec)

    def consume_iter(
        self,
        queue: str,
        *,
        batch_size: int = 1,
        vt: Optional[Duration] = None,
        idle: Optional[Duration] = None,
    ) -> MessageIterator:
        """The messages of a queue, for ``async with`` and ``async for``; see ``MessageIterator``.

        It fetches ``batch_size`` at a time. It goes on for ever, or until the queue has had nothing
        for as long as ``idle``.
        """
        return MessageIterator(self, queue, batch_size, optional_micros(vt), optional_micros(idle))

    async def enqueue_in(
        self,
        connection: Any,
        queue: str,
        payload: Any,
        *,
        headers: Optional[Mapping[str, Any]] = None,
        priority: int = 4,
        delay: Duration = 0,
        max_attempts: Optional[int] = None,
        codec: Optional[Codec[Any]] = None,
    ) -> int:
        """Enqueues one message in the transaction that ``connection`` is in, and returns its id: the
        message is there when you commit, and gone when you roll back.

        For Postgres; ``connection`` is one of yours to the store's database: of asyncpg, of psycopg 3
        or of SQLAlchemy (an ``AsyncConnection`` or ``AsyncSession``). ``pgqrs.sync`` has the same for
        connections whose calls block. Idle workers find it within a second of the commit, or at once
        after :meth:`notify`. On SQLite see :meth:`transaction`.
        """
        (id,) = await self.enqueue_many_in(
            connection,
            queue,
            [payload],
            headers=headers,
            priority=priority,
            delay=delay,
            max_attempts=max_attempts,
            codec=codec,
        )
        return id

    async def enqueue_many_in(
        self,
        connection: Any,
        queue: str,
        payloads: Iterable[Any],
        *,
        headers: Optional[Mapping[str, Any]] = None,
        priority: int = 4,
        delay: Duration = 0,
        max_attempts: Optional[int] = None,
        codec: Optional[Codec[Any]] = None,
    ) -> list[int]:
        """Enqueues 1 to 10,000 messages in the caller's transaction; see :meth:`enqueue_in`."""
        values = encoded(payloads, codec)
        options = (object_of(headers), priority, micros(delay), max_attempts)
        call = _native.CallerCall.enqueue(self._native, queue, values, *options)
        return await _caller.run_async(connection, self._native, call)

    async def archive_in(self, connection: Any, message: Message) -> None:
        """Archives a message in the caller's transaction, see :meth:`enqueue_in`: its effect and its
        end are committed together. A lost lease raises ``LeaseLostError``: then roll back.

        Make it the last statement before the commit: until then the message's lease is locked, and
        whoever renews or sweeps leases waits for it.
        """
        call = _native.CallerCall.archive(self._native, message.id, message.token)
        await _caller.run_async(connection, self._native, call)

    async def notify(self, queue: str) -> None:
        """Wakes idle workers of ``queue`` for what you have enqueued in a transaction of your own:
        after its commit, if a second is too long for them to find it by themselves."""
        await call(self._native.notify, queue)

    def transaction(self, *, timeout: Duration = 3) -> Transaction:
        """A transaction of yours on SQLite, for ``async with``; see :class:`Transaction`.

        It is rolled back when it is open for longer than ``timeout``; other writers wait for it no
        longer than ``busy_timeout`` of the store's URL (5 s). A database in memory has none. On
        Postgres see :meth:`enqueue_in`.
        """
        return Transaction(self._native, timeout)

    async def _claim(
        self, queue: str, limit: int, vt: Optional[int], at: Optional[datetime] = None
    ) -> tuple[list[Message], Optional[timedelta]]:
        return await call(self._native.claim, queue, limit, vt, at)  # type: ignore[no-any-return]

    async def _settle(self, settlements: Sequence[tuple[MessageOrId, Action]]) -> list[Any]:
        for message, _ in settlements:
            if isinstance(message, int):
                raise TypeError("a store settles messages; for an id ask the consumer that holds it")
        owned = [(m.id, m.token, action) for m, action in settlements if not isinstance(m, int)]
        return await call(self._native.settle, owned, None)  # type: ignore[no-any-return]

    async def _retry_delay(self, message: MessageOrId) -> int:
        if isinstance(message, int):
            raise TypeError("a store settles messages; for an id ask the consumer that holds it")
        return await self._retry_delay_of(message.queue, message)

    async def _retry_delay_of(self, queue: str, message: MessageOrId) -> int:
        if isinstance(message, int):
            live = await admin(self).message(message)
            attempts = 1 if live is None else live.attempts
        else:
            attempts = message.attempts
        delay: int = await call(self._native.retry_delay, queue, attempts)
        return delay
