"""The messages of a queue, one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional

from ._bridge import call
from ._errors import PgqrsError
from ._leases import hold
from ._native import Action, Leases, Message, Wakeups
from ._settling import MessageOrId, Settling
from ._units import micros

if TYPE_CHECKING:
    from ._store import Store

#: How long it sleeps at most before it looks again, in microseconds.
_POLL = 1_000_000


class MessageIterator(Settling):
    """Made by :meth:`Store.consume_iter`; the leases of its messages are renewed until they are
    settled or the block is left. Leaving it gives back what was not settled.

    >>> import asyncio, pgqrs
    >>> async def main():
    ...     store = await pgqrs.connect("sqlite::memory:")
    ...     await store.create_queue("tasks")
    ...     await store.enqueue_many("tasks", ["a", "b"])
    ...     async with store.consume_iter("tasks", idle=0) as iterator:
    ...         async for msg in iterator:
    ...             print(msg.payload)
    ...             await iterator.archive(msg.id)
    >>> asyncio.run(main())
    a
    b
    """

    def __init__(
        self, store: Store, queue: str, batch_size: int, vt: Optional[int], idle: Optional[int]
    ) -> None:
        self._store = store
        self._queue = queue
        self._batch_size = batch_size
        self._vt = vt
        self._idle = None if idle is None else idle / 1e6
        self._leases: Optional[Leases] = None
        self._wakeups: Optional[Wakeups] = None
        self._buffer: deque[Message] = deque()
        self._held: dict[int, Message] = {}

    async def __aenter__(self) -> MessageIterator:
        if self._leases is not None:
            raise RuntimeError("the iterator was entered before; call consume_iter again")
        self._leases = self._store._native.leases()
        self._wakeups = self._store._native.wakeups(self._queue)
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        leases, _ = self._entered()
        leases.close()
        unsettled = [*self._held.values(), *self._buffer]
        self._held.clear()
        self._buffer.clear()
        if unsettled:
            try:
                await self._store.release_many(unsettled)
            except PgqrsError:
                # Their leases run out by themselves; the block's own error matters more.
                if error is None:
                    raise

    def __aiter__(self) -> MessageIterator:
        return self

    async def __anext__(self) -> Message:
        leases, _ = self._entered()
        while True:
            while self._buffer:
                message = self._buffer.popleft()
                if leases.is_held(message.id, message.token):
                    self._held[message.id] = message
                    return message
            await self._fetch()

    async def _fetch(self) -> None:
        """Fills the buffer, however long that takes; ends the iteration when that is too long."""
        loop = asyncio.get_running_loop()
        leases, wakeups = self._entered()
        ends = None if self._idle is None else loop.time() + self._idle
        while True:
            messages, due = await self._store._claim(self._queue, self._batch_size, self._vt)
            if messages:
                hold(leases, messages, self._vt)
                self._buffer.extend(messages)
                return
            pause = _POLL
            if due is not None:
                pause = min(pause, max(micros(due), 1_000))
            if ends is not None:
                left = int((ends - loop.time()) * 1e6)
                if left <= 0:
                    raise StopAsyncIteration
                pause = min(pause, left)
            await call(wakeups.wait, pause)

    async def _settle(self, settlements: Sequence[tuple[MessageOrId, Action]]) -> list[Any]:
        leases, _ = self._entered()
        messages = [
            self._held.get(message) if isinstance(message, int) else message
            for message, _ in settlements
        ]
        known = [
            (message, action)
            for message, (_, action) in zip(messages, settlements)
            if message is not None
        ]
        outcomes = iter(await self._store._settle(known))
        results = [None if message is None else next(outcomes) for message in messages]
        for message, (_, action), result in zip(messages, settlements, results):
            if message is None:
                continue
            if result is not None and action.extends is not None:
                leases.hold(message.id, message.token, self._vt or action.extends, action.extends)
            else:
                leases.drop(message.id, message.token)
                if self._held.get(message.id) is message:
                    del self._held[message.id]
        return results

    async def _retry_delay(self, message: MessageOrId) -> int:
        if isinstance(message, int):
            message = self._held.get(message, message)
        return await self._store._retry_delay_of(self._queue, message)

    def _entered(self) -> tuple[Leases, Wakeups]:
        if self._leases is None or self._wakeups is None:
            raise RuntimeError("use it as: async with store.consume_iter(queue) as iterator")
        return self._leases, self._wakeups
