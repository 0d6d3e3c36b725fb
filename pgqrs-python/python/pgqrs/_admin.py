"""The operator's face of a store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Optional

from . import _native
from ._bridge import call
from ._records import (
    ArchivedMessage,
    Backoff,
    Finding,
    LiveMessage,
    Queue,
    QueueMetrics,
    Swept,
    WorkerRecord,
)
from ._units import Duration, micros, optional_micros

if TYPE_CHECKING:
    from ._store import Store


def admin(store: Store) -> Admin:
    """The operator's face of ``store``: schema, queues, metrics, workers, dead letters, retention.

    >>> import asyncio, pgqrs
    >>> async def main():
    ...     store = await pgqrs.connect("sqlite::memory:")
    ...     await pgqrs.admin(store).create_queue("tasks", max_attempts=3)
    ...     await store.enqueue("tasks", "a job")
    ...     [metrics] = await pgqrs.admin(store).metrics("tasks")
    ...     print(metrics.ready, "ready")
    >>> asyncio.run(main())
    1 ready
    """
    return Admin(store)


class Admin:
    """See :func:`admin`. Reads come in pages of ``limit`` rows by id: the next page is the one
    ``after`` the last id of this one."""

    def __init__(self, store: Store) -> None:
        self._native = _native.Admin(store._native)

    async def install(self) -> None:
        """Installs or upgrades the schema. Any number of programs may do that at once."""
        await call(self._native.install)

    async def verify(self) -> None:
        """Checks that the schema is as installed, else raises a ``SchemaError``."""
        await call(self._native.verify)

    async def doctor(self) -> list[Finding]:
        """What hurts the queues, and what to do about it: long transactions, vacuum, log size, …"""
        return [Finding(**row) for row in await call(self._native.doctor)]

    async def payload_limit(self, limit: Optional[int] = None) -> int:
        """The largest payload in bytes, after setting it to ``limit`` (1 KiB to 256 MiB) if given."""
        return await call(self._native.payload_limit, limit)  # type: ignore[no-any-return]

    async def create_queue(
        self,
        name: str,
        *,
        vt: Optional[Duration] = None,
        max_attempts: Optional[int] = None,
        retry: Optional[Backoff] = None,
        retention: Optional[Duration] = None,
    ) -> Queue:
        """Creates a queue; one that exists stays as it is.

        ``vt`` is how long messages are held by default (30 s), ``max_attempts`` after how many
        failures they become dead letters (5), ``retry`` the delay before they are tried again (random,
        up to 1 s, 2 s, 4 s, … 10 minutes), ``retention`` how long the archive keeps them (for ever).
        """
        settings = _settings(vt, max_attempts, retry, retention)
        return _queue(await call(self._native.create_queue, name, *settings))

    async def update_queue(
        self,
        name: str,
        *,
        vt: Optional[Duration] = None,
        max_attempts: Optional[int] = None,
        retry: Optional[Backoff] = None,
    ) -> Queue:
        """Changes what is given; see :meth:`create_queue`."""
        settings = _settings(vt, max_attempts, retry, None)[:3]
        return _queue(await call(self._native.update_queue, name, *settings))

    async def pause(self, name: str) -> Queue:
        """Stops a queue from handing out messages; it goes on taking them."""
        return _queue(await call(self._native.pause, name, True))

    async def resume(self, name: str) -> Queue:
        """Lets a paused queue hand out messages again."""
        return _queue(await call(self._native.pause, name, False))

    async def retention(self, name: str, retention: Optional[Duration]) -> Queue:
        """Sets how long a queue's archive is kept; ``None`` is for ever."""
        return _queue(await call(self._native.retention, name, optional_micros(retention)))

    async def delete_queue(self, name: str, *, force: bool = False) -> None:
        """Deletes a queue with its archive and workers; with live messages it needs ``force``."""
        await call(self._native.delete_queue, name, force)

    async def queues(self, name: Optional[str] = None) -> list[Queue]:
        """All queues, or the one of this name, by name."""
        return [_queue(row) for row in await call(self._native.queues, name)]

    async def metrics(self, queue: Optional[str] = None) -> list[QueueMetrics]:
        """Counts of all queues, or of this one, by name."""
        return [QueueMetrics(**row) for row in await call(self._native.metrics, queue)]

    async def messages(
        self,
        queue: Optional[str] = None,
        *,
        state: Optional[str] = None,
        worker: Optional[int] = None,
        after: Optional[int] = None,
        limit: int = 100,
    ) -> list[LiveMessage]:
        """Live messages; ``state`` is ``delayed``, ``ready`` or ``leased``."""
        rows = await call(self._native.messages, queue, state, worker, None, after, limit)
        return [LiveMessage(**row) for row in rows]

    async def message(self, id: int) -> Optional[LiveMessage]:
        """The live message of this id, if there is one."""
        rows = await call(self._native.messages, None, None, None, id, None, 1)
        return next((LiveMessage(**row) for row in rows), None)

    async def archive(
        self,
        queue: Optional[str] = None,
        *,
        outcome: Optional[str] = None,
        after: Optional[int] = None,
        limit: int = 100,
    ) -> list[ArchivedMessage]:
        """Archived messages; ``outcome`` is ``done`` or ``dead``."""
        rows = await call(self._native.archive, queue, outcome, None, after, limit)
        return [ArchivedMessage(**row) for row in rows]

    async def archived(self, id: int) -> Optional[ArchivedMessage]:
        """The archived message of this id, if there is one."""
        rows = await call(self._native.archive, None, None, id, None, 1)
        return next((ArchivedMessage(**row) for row in rows), None)

    async def dead_letters(
        self, queue: str, *, after: Optional[int] = None, limit: int = 100
    ) -> list[ArchivedMessage]:
        """The dead letters of a queue."""
        return await self.archive(queue, outcome="dead", after=after, limit=limit)

    async def redrive(
        self, queue: str, ids: Optional[Iterable[int]] = None, *, limit: int = 10_000
    ) -> list[int]:
        """Makes these dead letters live again, or the ``limit`` oldest; returns their ids."""
        letters = None if ids is None else list(ids)
        return await call(self._native.redrive, queue, letters, limit)  # type: ignore[no-any-return]

    async def purge(self, queue: str, what: str) -> int:
        """Removes messages for good: ``what`` is ``live`` (leased ones too), ``done`` or ``dead``.

        Returns how many.
        """
        return await call(self._native.purge, queue, what)  # type: ignore[no-any-return]

    async def workers(
        self,
        queue: Optional[str] = None,
        *,
        state: Optional[str] = None,
        after: Optional[int] = None,
        limit: int = 100,
    ) -> list[WorkerRecord]:
        """Registered workers; ``state`` is ``ready``, ``suspended`` or ``stopped``."""
        rows = await call(self._native.workers, queue, state, after, limit)
        return [WorkerRecord(**row) for row in rows]

    async def suspend_worker(self, id: int) -> None:
        """Stops a worker from claiming, from elsewhere."""
        await call(self._native.transition, id, "suspend")

    async def resume_worker(self, id: int) -> None:
        """Lets a suspended worker claim again, from elsewhere."""
        await call(self._native.transition, id, "resume")

    async def stop_worker(self, id: int) -> None:
        """Ends a worker's registration and gives back what it holds, from elsewhere."""
        await call(self._native.transition, id, "shutdown")

    async def sweep(self) -> Swept:
        """One maintenance pass; workers make them by themselves."""
        return Swept(**await call(self._native.sweep))


def _settings(
    vt: Optional[Duration],
    max_attempts: Optional[int],
    retry: Optional[Backoff],
    retention: Optional[Duration],
) -> tuple[Any, ...]:
    backoff = None if retry is None else (retry.kind, micros(retry.delay), micros(retry.max))
    return optional_micros(vt), max_attempts, backoff, optional_micros(retention)


def _queue(row: dict[str, Any]) -> Queue:
    return Queue(**{**row, "retry": Backoff(*row["retry"])})
