"""Consuming one fetch: dequeue, handle, settle."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any, Optional

from ._codec import Codec
from ._errors import PgqrsError, UnavailableError
from ._handler import Archive, Attempts, Bury, Fail, Handler, Interrupted, Verdict
from ._leases import hold
from ._native import Action, Message
from ._store import Store
from ._units import Duration, optional_micros

#: Tries of a settle that the store does not answer; repeating one is safe.
_TRIES = 5


async def consume(
    store: Store,
    queue: str,
    handler: Handler,
    *,
    batch_size: int = 1,
    vt: Optional[Duration] = None,
    codec: Optional[Codec[Any]] = None,
) -> int:
    """Takes up to ``batch_size`` messages, handles one after the other, and returns how many it
    handled.

    - The handler returns ``True`` or ``None`` (anything but ``False``): the message is archived.
    - It returns ``False``: the message is given back and comes again after the queue's retry delay;
      the attempt does not count.
    - It raises: the attempt failed, with the traceback as the message's last error. It comes again
      after the queue's retry delay, or as a :class:`Retry` says, until its attempts are used up.

    A handler that is not ``async`` runs in a thread. Leases are renewed meanwhile. When the caller is
    cancelled, what was not handled is given back at once; a thread that cannot be interrupted is
    waited for first.

    >>> import asyncio, pgqrs
    >>> async def main():
    ...     store = await pgqrs.connect("sqlite::memory:")
    ...     await store.create_queue("tasks")
    ...     await store.enqueue_many("tasks", ["a", "b", "c"])
    ...     handled = await pgqrs.consume(store, "tasks", lambda msg: print(msg.payload), batch_size=10)
    ...     print(handled, "handled")
    >>> asyncio.run(main())
    a
    b
    c
    3 handled
    """
    attempts = Attempts(handler, codec)
    waiting = deque(await store.dequeue(queue, batch_size=batch_size, vt=vt))
    leases = hold(store._native.leases(), waiting, optional_micros(vt))
    handled = 0
    try:
        while waiting:
            message = waiting[0]
            if leases.is_held(message.id, message.token):
                interrupted: Optional[Interrupted] = None
                try:
                    verdict = await attempts(message)
                except Interrupted as error:
                    verdict, interrupted = error.verdict, error
                waiting.popleft()
                await _settle(store, message, verdict)
                leases.drop(message.id, message.token)
                handled += 1
                if interrupted is not None:
                    raise asyncio.CancelledError
            else:
                # Somebody else may have it by now.
                waiting.popleft()
    finally:
        leases.close()
        if waiting:
            # If that fails their leases run out by themselves.
            with suppress(PgqrsError):
                await store.release_many(waiting)
    return handled


async def _settle(store: Store, message: Message, verdict: Verdict) -> None:
    action = await _action(store, message, verdict)
    for attempt in range(1, _TRIES + 1):
        try:
            # A lease that was lost all the same is somebody else's now.
            await store._settle([(message, action)])
            return
        except UnavailableError:
            if attempt == _TRIES:
                raise
            await asyncio.sleep(0.05 * 2**attempt)


async def _action(store: Store, message: Message, verdict: Verdict) -> Action:
    if isinstance(verdict, Archive):
        return Action.archive()
    if isinstance(verdict, Bury):
        return Action.fail(verdict.error, None)
    if isinstance(verdict, Fail):
        delay = verdict.delay
        return Action.fail(
            verdict.error, await store._retry_delay(message) if delay is None else delay
        )
    return Action.release(await store._retry_delay(message))
