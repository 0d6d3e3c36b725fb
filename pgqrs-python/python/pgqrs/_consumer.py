"""Registered workers: consumers and producers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Optional

from . import _native
from ._bridge import call
from ._codec import Codec
from ._native import Action, Message
from ._records import WorkerRecord
from ._settling import MessageOrId, Settling
from ._units import Duration, micros, optional_micros, utc

if TYPE_CHECKING:
    from ._store import Store


class Registered:
    """The life of a registered worker: ``ready <-> suspended``, and ``stopped`` for ever."""

    def __init__(self, worker: _native.Registration) -> None:
        self._worker = worker
        self._made = WorkerRecord(**worker.made())

    @property
    def id(self) -> int:
        """The number of this registration."""
        return self._made.id

    @property
    def queue(self) -> str:
        """The queue that it serves."""
        return self._made.queue

    async def status(self) -> WorkerRecord:
        """The registration as the store has it now."""
        return WorkerRecord(**await call(self._worker.status))

    async def heartbeat(self) -> None:
        """Tells the store that the worker is alive."""
        await call(self._worker.transition, "heartbeat")

    async def suspend(self) -> None:
        """Stops it from claiming until :meth:`resume`; what it holds it keeps."""
        await call(self._worker.transition, "suspend")

    async def resume(self) -> None:
        """Lets it claim again."""
        await call(self._worker.transition, "resume")

    async def shutdown(self) -> None:
        """Ends the registration and gives back at once what it still holds, attempts included."""
        await call(self._worker.transition, "shutdown")

    def __repr__(self) -> str:
        made = self._made
        return f"{type(self).__name__}(id={made.id}, queue={made.queue!r}, host={made.host!r}, port={made.port})"


class Consumer(Registered, Settling):
    """A registered consumer; made by :meth:`Store.consumer`.

    Calls by id act on the newest lease that this object holds of the message; calls with a message
    act on that message's own lease.
    """

    def __init__(self, store: Store, native: _native.Consumer) -> None:
        super().__init__(native.worker())
        self._store = store
        self._native = native

    async def dequeue(
        self,
        *,
        batch_size: int = 1,
        vt: Optional[Duration] = None,
        at: Optional[datetime] = None,
    ) -> list[Message]:
        """Takes up to ``batch_size`` messages and holds them for ``vt`` (the queue's setting)."""
        return await call(self._native.claim, batch_size, optional_micros(vt), utc(at))  # type: ignore[no-any-return]

    async def _settle(self, settlements: Sequence[tuple[MessageOrId, Action]]) -> list[Any]:
        known = [
            (message, None, action)
            if isinstance(message, int)
            else (message.id, message.token, action)
            for message, action in settlements
        ]
        return await call(self._native.settle, known)  # type: ignore[no-any-return]

    async def _retry_delay(self, message: MessageOrId) -> int:
        return await self._store._retry_delay_of(self.queue, message)


class Producer(Registered):
    """A registered producer; made by :meth:`Store.producer`. Suspended, it enqueues nothing."""

    def __init__(self, native: _native.Producer, codec: Optional[Codec[Any]]) -> None:
        super().__init__(native.worker())
        self._native = native
        self._codec = codec

    async def enqueue(
        self,
        payload: Any,
        *,
        headers: Optional[Mapping[str, Any]] = None,
        priority: int = 4,
        delay: Duration = 0,
        max_attempts: Optional[int] = None,
    ) -> int:
        """Enqueues one message and returns its id; see :meth:`Store.enqueue`."""
        (id,) = await self.enqueue_many(
            [payload], headers=headers, priority=priority, delay=delay, max_attempts=max_attempts
        )
        return id

    async def enqueue_many(
        self,
        payloads: Iterable[Any],
        *,
        headers: Optional[Mapping[str, Any]] = None,
        priority: int = 4,
        delay: Duration = 0,
        max_attempts: Optional[int] = None,
    ) -> list[int]:
        """Enqueues all or none and returns their ids in order; see :meth:`Store.enqueue_many`."""
        values = encoded(payloads, self._codec)
        options = (object_of(headers), priority, micros(delay), max_attempts)
        return await call(self._native.enqueue, values, *options)  # type: ignore[no-any-return]


def encoded(payloads: Iterable[Any], codec: Optional[Codec[Any]]) -> list[Any]:
    """The payloads as JSON values."""
    return list(payloads) if codec is None else [codec.encode(payload) for payload in payloads]


def object_of(headers: Optional[Mapping[str, Any]]) -> Optional[dict[str, Any]]:
    """The headers as a dict."""
    return None if headers is None else dict(headers)
