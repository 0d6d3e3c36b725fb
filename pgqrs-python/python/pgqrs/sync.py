"""The same names for programs without an event loop: scripts, Django, notebooks.

>>> import pgqrs.sync
>>> store = pgqrs.sync.connect("sqlite::memory:")
>>> queue = store.create_queue("tasks")
>>> id = store.enqueue("tasks", {"to": "ada@example.org"})
>>> pgqrs.sync.consume(store, "tasks", lambda msg: print("mail to", msg.payload["to"]))
mail to ada@example.org
1

Behind it an event loop runs in a thread of its own. Handlers of :func:`consume` run in the thread
that calls it.
"""

from __future__ import annotations

import asyncio
import os
import queue as queues
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Optional, TypeVar

import pgqrs

from . import _caller
from ._codec import Codec
from ._consumer import encoded, object_of
from ._native import CallerCall, Message
from ._records import Backoff, Queue, Report, WorkerRecord
from ._settling import MessageOrId, Settling
from ._transaction import Parameters
from ._units import Duration, micros

T = TypeVar("T")
S = TypeVar("S", bound=Settling)


def connect(url: str) -> Store:
    """Opens the store that ``url`` names; see :func:`pgqrs.connect`."""
    return Store(_run(pgqrs.connect(url)))


def admin(store: Store) -> Admin:
    """The operator's face of ``store``; see :func:`pgqrs.admin`."""
    return Admin(pgqrs.admin(store._inner))


def consume(
    store: Store,
    queue: str,
    handler: Callable[[Message], Any],
    *,
    batch_size: int = 1,
    vt: Optional[Duration] = None,
    codec: Optional[Codec[Any]] = None,
) -> int:
    """Handles one fetch in the calling thread; see :func:`pgqrs.consume`."""
    calls: queues.SimpleQueue[Optional[_Call]] = queues.SimpleQueue()

    async def hand_over(message: Message) -> Any:
        call = _Call(message)
        calls.put(call)
        result, error = await asyncio.wrap_future(call.outcome)
        if error is not None:
            raise error
        return result

    async def handle() -> int:
        try:
            options: dict[str, Any] = {"batch_size": batch_size, "vt": vt, "codec": codec}
            return await pgqrs.consume(store._inner, queue, hand_over, **options)
        finally:
            calls.put(None)

    handled = _start(handle())
    try:
        while (call := calls.get()) is not None:
            try:
                call.outcome.set_result((handler(call.message), None))
            except Exception as error:
                call.outcome.set_result((None, error))
    except BaseException:
        handled.cancel()
        # Until what was not handled is given back.
        while calls.get() is not None:
            pass
        raise
    return handled.result()


def dequeue(
    consumer: Consumer,
    *,
    batch_size: int = 1,
    vt: Optional[Duration] = None,
    at: Optional[datetime] = None,
) -> list[Message]:
    """Takes up to ``batch_size`` messages; see :func:`pgqrs.dequeue`."""
    return consumer.dequeue(batch_size=batch_size, vt=vt, at=at)


def archive(holder: Settler[Any], message: MessageOrId) -> None:
    """Archives a message as done."""
    holder.archive(message)


def delete(holder: Settler[Any], message: MessageOrId) -> None:
    """Deletes a message for good."""
    holder.delete(message)


def extend_vt(holder: Settler[Any], message: MessageOrId, vt: Duration) -> datetime:
    """Holds a message for ``vt`` from now on."""
    return holder.extend_vt(message, vt)


def release(holder: Settler[Any], message: MessageOrId, delay: Duration = 0) -> None:
    """Gives a message back, claimable after ``delay``; the attempt does not count."""
    holder.release(message, delay)


def fail(
    holder: Settler[Any],
    message: MessageOrId,
    error: str,
    *,
    retry_after: Optional[Duration] = None,
) -> str:
    """Records a failed attempt: ``"retrying"`` or ``"dead"``."""
    return holder.fail(message, error, retry_after=retry_after)


def enqueue_in(
    connection: Any, store: Store, queue: str, payload: Any, **options: Any
) -> int:
    """Enqueues a message in the transaction that ``connection`` is in; see
    :meth:`Store.enqueue_in`."""
    return store.enqueue_in(connection, queue, payload, **options)


def archive_in(connection: Any, store: Store, message: Message) -> None:
    """Archives a message in the transaction that ``connection`` is in; see
    :meth:`Store.archive_in`."""
    store.archive_in(connection, message)


class Settler(Generic[S]):
    """What stores, consumers and iterators do with messages that they hold."""

    def __init__(self, inner: S) -> None:
        self._inner = inner

    def archive(self, message: MessageOrId) -> None:
        """Archives it as done. Repeating that is safe."""
        _run(self._inner.archive(message))

    def delete(self, message: MessageOrId) -> None:
        """Deletes it for good."""
        _run(self._inner.delete(message))

    def release(self, message: MessageOrId, delay: Duration = 0) -> None:
        """Gives it back, claimable after ``delay``; the attempt does not count."""
        _run(self._inner.release(message, delay))

    def extend_vt(self, message: MessageOrId, vt: Duration) -> datetime:
        """Holds it for ``vt`` from now on; returns when that ends."""
        return _run(self._inner.extend_vt(message, vt))

    def fail(
        self, message: MessageOrId, error: str, *, retry_after: Optional[Duration] = None
    ) -> str:
        """Records a failed attempt: ``"retrying"`` or ``"dead"``."""
        return _run(self._inner.fail(message, error, retry_after=retry_after))

    def bury(self, message: MessageOrId, error: str) -> None:
        """Makes it a dead letter at once."""
        _run(self._inner.bury(message, error))

    def archive_many(self, messages: Iterable[MessageOrId]) -> list[bool]:
        """Archives them in one call; ``False`` where the lease was lost."""
        return _run(self._inner.archive_many(messages))

    def delete_many(self, messages: Iterable[MessageOrId]) -> list[bool]:
        """Deletes them in one call; ``False`` where the lease was lost."""
        return _run(self._inner.delete_many(messages))

    def release_many(self, messages: Iterable[MessageOrId], delay: Duration = 0) -> list[bool]:
        """Gives them back in one call; ``False`` where the lease was lost."""
        return _run(self._inner.release_many(messages, delay))

    def extend_vt_many(self, messages: Iterable[MessageOrId], vt: Duration) -> list[bool]:
        """Holds them for ``vt`` from now on; ``False`` where the lease was lost."""
        return _run(self._inner.extend_vt_many(messages, vt))


class Store(Settler[pgqrs.Store]):
    """See :class:`pgqrs.Store`."""

    def create_queue(
        self,
        name: str,
        *,
        vt: Optional[Duration] = None,
        max_attempts: Optional[int] = None,
        retry: Optional[Backoff] = None,
        retention: Optional[Duration] = None,
    ) -> Queue:
        """Creates a queue; one that exists stays as it is."""
        options: dict[str, Any] = {"vt": vt, "max_attempts": max_attempts, "retry": retry}
        return _run(self._inner.create_queue(name, retention=retention, **options))

    def enqueue(
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
        """Enqueues one message and returns its id."""
        options: dict[str, Any] = {"headers": headers, "priority": priority, "delay": delay}
        options.update(max_attempts=max_attempts, codec=codec)
        return _run(self._inner.enqueue(queue, payload, **options))

    def enqueue_many(
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
        """Enqueues all or none and returns their ids in order."""
        options: dict[str, Any] = {"headers": headers, "priority": priority, "delay": delay}
        options.update(max_attempts=max_attempts, codec=codec)
        return _run(self._inner.enqueue_many(queue, payloads, **options))

    def enqueue_in(
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
        """Enqueues one message in the transaction that ``connection`` is in, and returns its id: one
        of psycopg 3, of SQLAlchemy (a ``Connection`` or ``Session``) or of Django. See
        :meth:`pgqrs.Store.enqueue_in`."""
        options: dict[str, Any] = {"headers": headers, "priority": priority, "delay": delay}
        options.update(max_attempts=max_attempts, codec=codec)
        (id,) = self.enqueue_many_in(connection, queue, [payload], **options)
        return id

    def enqueue_many_in(
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
        values, store = encoded(payloads, codec), self._inner._native
        options = (object_of(headers), priority, micros(delay), max_attempts)
        call = CallerCall.enqueue(store, queue, values, *options)
        return _caller.run(connection, store, call)

    def archive_in(self, connection: Any, message: Message) -> None:
        """Archives a message in the caller's transaction; see :meth:`pgqrs.Store.archive_in`."""
        store = self._inner._native
        _caller.run(connection, store, CallerCall.archive(store, message.id, message.token))

    def notify(self, queue: str) -> None:
        """Wakes idle workers of ``queue``; see :meth:`pgqrs.Store.notify`."""
        _run(self._inner.notify(queue))

    def transaction(self, *, timeout: Duration = 3) -> Transaction:
        """A transaction of yours on SQLite, for ``with``; see :meth:`pgqrs.Store.transaction`."""
        return Transaction(self._inner.transaction(timeout=timeout))

    def dequeue(
        self, queue: str, *, batch_size: int = 1, vt: Optional[Duration] = None
    ) -> list[Message]:
        """Takes up to ``batch_size`` messages and holds them for ``vt``."""
        return _run(self._inner.dequeue(queue, batch_size=batch_size, vt=vt))

    def consumer(
        self,
        queue: str,
        *,
        host: Optional[str] = None,
        port: int = 0,
        heartbeat_timeout: Optional[Duration] = None,
    ) -> Consumer:
        """Registers a consumer."""
        identity: dict[str, Any] = {"host": host, "port": port}
        identity.update(heartbeat_timeout=heartbeat_timeout)
        return Consumer(_run(self._inner.consumer(queue, **identity)))

    def producer(
        self,
        queue: str,
        *,
        host: Optional[str] = None,
        port: int = 0,
        heartbeat_timeout: Optional[Duration] = None,
        codec: Optional[Codec[Any]] = None,
    ) -> Producer:
        """Registers a producer."""
        identity: dict[str, Any] = {"host": host, "port": port}
        identity.update(heartbeat_timeout=heartbeat_timeout)
        return Producer(_run(self._inner.producer(queue, codec=codec, **identity)))

    def consume_iter(
        self,
        queue: str,
        *,
        batch_size: int = 1,
        vt: Optional[Duration] = None,
        idle: Optional[Duration] = None,
    ) -> MessageIterator:
        """The messages of a queue, for ``with`` and ``for``."""
        inner = self._inner.consume_iter(queue, batch_size=batch_size, vt=vt, idle=idle)
        return MessageIterator(inner)


class _Life:
    """The life of a registered worker."""

    _inner: Any

    @property
    def id(self) -> int:
        """The number of this registration."""
        return int(self._inner.id)

    @property
    def queue(self) -> str:
        """The queue that it serves."""
        return str(self._inner.queue)

    def status(self) -> WorkerRecord:
        """The registration as the store has it now."""
        record: WorkerRecord = _run(self._inner.status())
        return record

    def heartbeat(self) -> None:
        """Tells the store that the worker is alive."""
        _run(self._inner.heartbeat())

    def suspend(self) -> None:
        """Stops it from claiming until :meth:`resume`."""
        _run(self._inner.suspend())

    def resume(self) -> None:
        """Lets it claim again."""
        _run(self._inner.resume())

    def shutdown(self) -> None:
        """Ends the registration and gives back at once what it still holds."""
        _run(self._inner.shutdown())


class Consumer(_Life, Settler[pgqrs.Consumer]):
    """See :class:`pgqrs.Consumer`."""

    def dequeue(
        self,
        *,
        batch_size: int = 1,
        vt: Optional[Duration] = None,
        at: Optional[datetime] = None,
    ) -> list[Message]:
        """Takes up to ``batch_size`` messages and holds them for ``vt``."""
        return _run(self._inner.dequeue(batch_size=batch_size, vt=vt, at=at))


class Producer(_Life):
    """See :class:`pgqrs.Producer`."""

    def __init__(self, inner: pgqrs.Producer) -> None:
        self._inner = inner

    def enqueue(self, payload: Any, **options: Any) -> int:
        """Enqueues one message; the options are those of :meth:`pgqrs.Producer.enqueue`."""
        return int(_run(self._inner.enqueue(payload, **options)))

    def enqueue_many(self, payloads: Iterable[Any], **options: Any) -> list[int]:
        """Enqueues all or none; the options are those of :meth:`pgqrs.Producer.enqueue_many`."""
        ids: list[int] = _run(self._inner.enqueue_many(payloads, **options))
        return ids


class MessageIterator(Settler[pgqrs.MessageIterator]):
    """See :class:`pgqrs.MessageIterator`."""

    def __enter__(self) -> MessageIterator:
        _run(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        _run(self._inner.__aexit__(kind, error, trace))

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        message = _run(self._next())
        if message is None:
            raise StopIteration
        return message

    async def _next(self) -> Optional[Message]:
        try:
            return await self._inner.__anext__()
        except StopAsyncIteration:
            return None


class Transaction:
    """See :class:`pgqrs.Transaction`."""

    def __init__(self, inner: pgqrs.Transaction) -> None:
        self._inner = inner

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Runs one statement of yours; returns how many rows it changed."""
        return _run(self._inner.execute(sql, parameters))

    def fetch(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Runs one statement of yours, and returns its rows."""
        return _run(self._inner.fetch(sql, parameters))

    def fetch_one(self, sql: str, parameters: Parameters = ()) -> Optional[tuple[Any, ...]]:
        """Runs one statement of yours, and returns its first row, if there is one."""
        return _run(self._inner.fetch_one(sql, parameters))

    def enqueue(self, queue: str, payload: Any, **options: Any) -> int:
        """Enqueues one message; the options are those of :meth:`pgqrs.Transaction.enqueue`."""
        return _run(self._inner.enqueue(queue, payload, **options))

    def enqueue_many(self, queue: str, payloads: Iterable[Any], **options: Any) -> list[int]:
        """Enqueues all or none; the options are those of :meth:`pgqrs.Transaction.enqueue`."""
        return _run(self._inner.enqueue_many(queue, payloads, **options))

    def archive(self, message: Message) -> None:
        """Archives a message as done; a lost lease raises ``LeaseLostError``."""
        _run(self._inner.archive(message))

    def __enter__(self) -> Transaction:
        _run(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        _run(self._inner.__aexit__(kind, error, trace))


class Admin:
    """See :class:`pgqrs.Admin`, whose methods it has, each of which returns when it is done."""

    def __init__(self, inner: pgqrs.Admin) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._inner, name)

        def call(*args: Any, **options: Any) -> Any:
            return _run(method(*args, **options))

        return call


class Worker:
    """See :class:`pgqrs.Worker`."""

    def __init__(
        self, store: Store, queue: str, handler: pgqrs.Handler, **options: Any
    ) -> None:
        self._inner = pgqrs.Worker(store._inner, queue, handler, **options)

    def run(self, *, signals: bool = True) -> Report:
        """Runs until it is stopped, by a signal or from another thread."""
        return asyncio.run(self._inner.run(signals=signals))

    def stop(self) -> None:
        """Asks it to stop."""
        self._inner.stop()


class _Call:
    """A handler to be called in another thread."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.outcome: Future[tuple[Any, Optional[Exception]]] = Future()
        # From here on it can no longer be cancelled by whoever waits for it.
        self.outcome.set_running_or_notify_cancel()


class _Loop:
    """The event loop in its thread, of the process that started it."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="pgqrs-sync", daemon=True)
        self.thread.start()


_lock = threading.Lock()
_current: Optional[_Loop] = None
os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.Lock()))


def _start(work: Coroutine[Any, Any, T]) -> Future[T]:
    global _current
    with _lock:
        if _current is None or _current.process != os.getpid():
            _current = _Loop()
    if threading.current_thread() is _current.thread:
        work.close()
        raise RuntimeError("pgqrs.sync cannot be called from its own event loop")
    return asyncio.run_coroutine_threadsafe(work, _current.loop)


def _run(work: Coroutine[Any, Any, T]) -> T:
    future = _start(work)
    try:
        return future.result()
    except BaseException:
        # Ctrl-C while waiting: what is under way is not wanted any more.
        future.cancel()
        raise
