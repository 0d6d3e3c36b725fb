"""Workers for long runs."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Optional

from . import _native
from ._bridge import call
from ._codec import Codec
from ._handler import Archive, Attempts, Bury, Fail, Handler, Interrupted, Verdict
from ._native import Message
from ._records import Report
from ._signals import on_shutdown_signal
from ._store import Store
from ._units import Duration, micros, optional_micros


class Worker:
    """Handles the messages of a queue until it is stopped; what handlers return means what it means
    to :func:`consume`.

    - ``concurrency`` handlers run at once; ``prefetch`` messages (by default as many) wait in memory.
    - Leases of ``vt`` (the queue's setting) are renewed for as long as handlers work. One that cannot
      be renewed in time is given up: its handler is cancelled before the lease lapses.
    - A handler that takes longer than ``timeout`` is cancelled, and the attempt has failed.
    - When the store is unavailable the worker backs off and goes on.
    - SIGTERM, SIGINT or :meth:`stop`: it fetches no more, gives back what waits, lets handlers finish
      for ``grace``, then cancels them and gives back their messages. A second signal ends the grace.
    - ``host`` and ``port`` are its identity; with port 0, the default, it has none. Registering an
      identity again replaces the worker that bears it, whose run ends with ``WorkerNotReadyError``.

    A handler that is not ``async`` runs in a thread. Such a thread cannot be interrupted: given up, it
    goes on, but nothing that it returns counts any more.

    >>> import asyncio, pgqrs
    >>> async def main():
    ...     store = await pgqrs.connect("sqlite::memory:")
    ...     await store.create_queue("tasks")
    ...     await store.enqueue_many("tasks", range(100))
    ...
    ...     async def handler(msg):
    ...         if msg.payload == 99:
    ...             worker.stop()
    ...
    ...     worker = pgqrs.Worker(store, "tasks", handler)
    ...     report = await worker.run()
    ...     print(report.handled, "handled")
    >>> asyncio.run(main())
    100 handled
    """

    def __init__(
        self,
        store: Store,
        queue: str,
        handler: Handler,
        *,
        concurrency: int = 1,
        prefetch: Optional[int] = None,
        vt: Optional[Duration] = None,
        timeout: Optional[Duration] = None,
        grace: Duration = 30,
        poll_interval: Duration = 1,
        host: Optional[str] = None,
        port: int = 0,
        codec: Optional[Codec[Any]] = None,
    ) -> None:
        self._handler = handler
        self._codec = codec
        self._concurrency = concurrency
        identity = (host or socket.gethostname(), port) if host or port else None
        limits = (optional_micros(vt), optional_micros(timeout))
        pauses = (micros(grace), micros(poll_interval))
        self._loop = _native.RunLoop(
            store._native, queue, identity, concurrency, prefetch, *limits, *pauses
        )
        self._stopping = False
        self._started = False

    async def run(self, *, signals: bool = True) -> Report:
        """Runs until it is stopped, and says what it did. A worker runs once.

        Without ``signals`` it leaves SIGTERM and SIGINT alone. When the caller is cancelled, handlers
        are cancelled too, and their messages given back.
        """
        if self._started:
            raise RuntimeError("this worker has run; make a new one")
        self._started = True
        with on_shutdown_signal(self._signalled) if signals else nullcontext():
            running = call(self._loop.run)
            handling = asyncio.ensure_future(self._handle())
            try:
                return Report(**await asyncio.shield(running))
            except asyncio.CancelledError:
                self._loop.abandon()
                await asyncio.wait([running])
                raise
            finally:
                await asyncio.wait([handling])
                handling.result()

    def stop(self) -> None:
        """Asks it to stop; :meth:`run` returns when that is done. May be called from any thread."""
        self._stopping = True
        self._loop.stop()

    def _signalled(self) -> None:
        if self._stopping:
            self._loop.abandon()
        self.stop()

    async def _handle(self) -> None:
        """Runs handlers until the run loop has no more for them."""
        pool = ThreadPoolExecutor(self._concurrency, "pgqrs-handler")
        handlers = _Handlers(self._loop, Attempts(self._handler, self._codec, pool))
        try:
            while events := await call(self._loop.events):
                for number, message in events:
                    if message is None:
                        handlers.cancel(number)
                    else:
                        handlers.start(number, message)
        except BaseException:
            self._loop.abandon()
            raise
        finally:
            await handlers.end()
            pool.shutdown(wait=False)


class _Handlers:
    """The handlers in work. Their verdicts cross together, once per turn of the event loop."""

    def __init__(self, run_loop: _native.RunLoop, attempts: Attempts) -> None:
        self._run_loop = run_loop
        self._attempts = attempts
        self._event_loop = asyncio.get_running_loop()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._archived: list[int] = []
        self._others: list[tuple[int, str, Optional[str], Optional[int]]] = []

    def start(self, number: int, message: Message) -> None:
        self._tasks[number] = self._event_loop.create_task(self._handle(number, message))

    def cancel(self, number: int) -> None:
        task = self._tasks.get(number)
        if task is not None:
            task.cancel()

    async def end(self) -> None:
        """Cancels those that are left and waits for them, but not for threads."""
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        if left and not self._attempts.in_thread:
            await asyncio.wait(left)

    async def _handle(self, number: int, message: Message) -> None:
        try:
            verdict: Optional[Verdict] = await self._attempts(message)
        except Interrupted as interrupted:
            verdict = interrupted.verdict
        except asyncio.CancelledError:
            verdict = None
        del self._tasks[number]
        if not self._archived and not self._others:
            self._event_loop.call_soon(self._flush)
        if isinstance(verdict, Archive):
            self._archived.append(number)
        else:
            self._others.append((number, *_told(verdict)))

    def _flush(self) -> None:
        archived, self._archived = self._archived, []
        others, self._others = self._others, []
        self._run_loop.settle(archived, others)


def _told(verdict: Optional[Verdict]) -> tuple[str, Optional[str], Optional[int]]:
    """The verdict as the run loop takes it; none is that of a handler that was cancelled."""
    if verdict is None:
        return "release", None, None
    if isinstance(verdict, Fail):
        return "fail", verdict.error, verdict.delay
    if isinstance(verdict, Bury):
        return "bury", verdict.error, None
    return "give back", None, None
