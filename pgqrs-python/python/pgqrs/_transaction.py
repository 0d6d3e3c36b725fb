"""The caller's transaction on SQLite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Optional, Union

from . import _native
from ._bridge import call
from ._codec import Codec
from ._consumer import encoded, object_of
from ._errors import PgqrsError
from ._native import Message
from ._settling import lost
from ._units import Duration, micros

#: For ``?`` in order, or for ``:name`` by name: None, bool, int, float, str and bytes.
Parameters = Union[Sequence[Any], Mapping[str, Any]]


class Transaction:
    """Made by :meth:`Store.transaction`, for SQLite: your own statements, enqueues and archives,
    committed together when the block is left, rolled back when it is left by an exception.

    It holds the database's only write lock: all other writers wait. So it is rolled back when it has
    been open for longer than its timeout, and raises ``TransactionExpiredError``.

    >>> import asyncio, os, tempfile, pgqrs
    >>> async def main(url):
    ...     store = await pgqrs.connect(url)
    ...     await store.create_queue("mails")
    ...     async with store.transaction() as tx:
    ...         await tx.execute("create table if not exists users (name text)")
    ...         await tx.execute("insert into users values (?)", ["ada"])
    ...         await tx.enqueue("mails", {"to": "ada"})
    ...     [msg] = await store.dequeue("mails")
    ...     async with store.transaction() as tx:
    ...         print(await tx.fetch("select name from users"), msg.payload)
    ...         await tx.archive(msg)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     asyncio.run(main(f"sqlite:///{folder}/jobs.db"))
    [('ada',)] {'to': 'ada'}
    """

    def __init__(self, store: _native.Store, timeout: Duration) -> None:
        self._store = store
        self._timeout = micros(timeout)
        self._native: Optional[_native.Transaction] = None

    async def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Runs one statement of yours; returns how many rows it changed."""
        changed: int = await call(self._begun().execute, sql, _values(parameters))
        return changed

    async def fetch(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Runs one statement of yours, and returns its rows."""
        rows: list[tuple[Any, ...]] = await call(self._begun().fetch, sql, _values(parameters))
        return rows

    async def fetch_one(
        self, sql: str, parameters: Parameters = ()
    ) -> Optional[tuple[Any, ...]]:
        """Runs one statement of yours, and returns its first row, if there is one."""
        return next(iter(await self.fetch(sql, parameters)), None)

    async def enqueue(
        self,
        queue: str,
        payload: Any,
        *,
        headers: Optional[Mapping[str, Any]] = None,
        priority: int = 4,
        delay: Duration = 0,
        max_attempts: Optional[int] = None,
        codec: Optional[Codec[Any]] = None,
    ) -> int:
        """Enqueues one message and returns its id; see :meth:`Store.enqueue`."""
        (id,) = await self.enqueue_many(
            queue,
            [payload],
            headers=headers,
            priority=priority,
            delay=delay,
            max_attempts=max_attempts,
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
        codec: Optional[Codec[Any]] = None,
    ) -> list[int]:
        """Enqueues 1 to 10,000 messages and returns their ids in order."""
        values = encoded(payloads, codec)
        options = (object_of(headers), priority, micros(delay), max_attempts)
        begun = self._begun()
        ids: list[int] = await call(begun.enqueue, self._store, queue, values, *options)
        return ids

    async def archive(self, message: Message) -> None:
        """Archives a message as done; a lost lease raises ``LeaseLostError``."""
        receipts = [(message.id, message.token)]
        (outcome,) = await call(self._begun().archive, self._store, receipts)
        if outcome is None:
            raise lost(message.id)

    async def __aenter__(self) -> Transaction:
        if self._native is not None:
            raise RuntimeError("this transaction was begun before; call store.transaction() again")
        self._native = await call(_native.Transaction.begin, self._store, self._timeout)
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if error is None:
            await call(self._begun().commit)
            return
        # It may be over already; the block's own error matters more.
        with suppress(PgqrsError):
            await call(self._begun().rollback)

    def _begun(self) -> _native.Transaction:
        if self._native is None:
            raise RuntimeError("use it as: async with store.transaction() as tx")
        return self._native


def _values(parameters: Parameters) -> Any:
    if isinstance(parameters, (str, bytes)):
        raise TypeError("parameters are a list, tuple or dict: [value] for one")
    return dict(parameters) if isinstance(parameters, Mapping) else list(parameters)
