"""Handlers: what is called for a message, and what becomes of the message."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Optional, Union

from ._codec import Codec
from ._native import Message
from ._units import Duration, micros

#: Called for each message. ``False`` gives the message back, an exception fails it, anything else
#: archives it. One that is not ``async`` runs in a thread.
Handler = Callable[[Message], Union[Awaitable[Any], Any]]

#: The longest error that a store keeps, in bytes.
_MAX_ERROR = 8 * 1024


class Retry(Exception):
    """Raised by a handler that says itself when its message is tried again.

    >>> raise Retry.after(10, "the printer is busy")
    Traceback (most recent call last):
    pgqrs.Retry: the printer is busy
    """

    __module__ = "pgqrs"

    def __init__(self, reason: str, delay: Optional[int]) -> None:
        super().__init__(reason)
        self._delay = delay

    @classmethod
    def after(cls, delay: Duration, reason: str = "to be tried again") -> Retry:
        """Tried again after ``delay``, unless this was its last attempt."""
        return cls(reason, micros(delay))

    @classmethod
    def never(cls, reason: str = "not to be tried again") -> Retry:
        """A dead letter at once."""
        return cls(reason, None)


@dataclass(frozen=True)
class Archive:
    """It was handled."""


@dataclass(frozen=True)
class GiveBack:
    """It is released after the queue's retry delay, and the attempt does not count."""


@dataclass(frozen=True)
class Fail:
    """The attempt failed; ``delay`` in microseconds, ``None`` is the queue's retry delay."""

    error: str
    delay: Optional[int] = None


@dataclass(frozen=True)
class Bury:
    """It becomes a dead letter."""

    error: str


Verdict = Union[Archive, GiveBack, Fail, Bury]


class Attempts:
    """Calls a handler; its verdicts never raise but when the awaiting task is cancelled."""

    def __init__(
        self,
        handler: Handler,
        codec: Optional[Codec[Any]] = None,
        executor: Optional[Executor] = None,
    ) -> None:
        self._handler = handler
        self._codec = codec
        self._executor = executor
        self.in_thread = not _is_async(handler)

    async def __call__(self, message: Message) -> Verdict:
        if self.in_thread:
            return await self._threaded(message)
        try:
            return _verdict(await self._handler(self._decoded(message)))
        except Exception as error:
            return _failure(error)

    async def _threaded(self, message: Message) -> Verdict:
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        call = functools.partial(context.run, self._call, message)
        thread = loop.run_in_executor(self._executor, call)
        cancelled: Optional[asyncio.CancelledError] = None
        while not thread.done():
            try:
                await asyncio.wait([thread])
            except asyncio.CancelledError as error:
                # A thread cannot be interrupted: what it does counts, and only then we stop.
                cancelled = error
        outcome = thread.result()
        if cancelled is not None:
            raise Interrupted(outcome.verdict) from cancelled
        try:
            return outcome.verdict if outcome.rest is None else _verdict(await outcome.rest)
        except Exception as error:
            return _failure(error)

    def _call(self, message: Message) -> _Outcome:
        """Runs in the thread, and never raises there."""
        try:
            outcome = self._handler(self._decoded(message))
            if inspect.isawaitable(outcome):
                return _Outcome(GiveBack(), outcome)
            return _Outcome(_verdict(outcome))
        except BaseException as error:
            return _Outcome(_failure(error))

    def _decoded(self, message: Message) -> Message:
        if self._codec is None:
            return message
        return message.with_payload(self._codec.decode(message.payload))


class Interrupted(asyncio.CancelledError):
    """The task was cancelled while a handler's thread worked on; this is how that ended."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__()
        self.verdict = verdict


@dataclass(frozen=True)
class _Outcome:
    """What a thread left: its verdict, unless there is a rest to await."""

    verdict: Verdict
    rest: Optional[Awaitable[Any]] = None


def _is_async(handler: Handler) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)
    )


_ARCHIVE = Archive()
_GIVE_BACK = GiveBack()


def _verdict(outcome: Any) -> Verdict:
    return _GIVE_BACK if outcome is False else _ARCHIVE


def _failure(error: BaseException) -> Verdict:
    if isinstance(error, Retry):
        reason = _text(error)
        return Bury(reason) if error._delay is None else Fail(reason, error._delay)
    return Fail(_text(error))


def _text(error: BaseException) -> str:
    """The traceback without our own frame; of a long one the beginning and, above all, the end."""
    if isinstance(error, Retry) and error.__cause__ is None:
        lines = str(error)
    else:
        trace = error.__traceback__
        lines = "".join(
            traceback.format_exception(type(error), error, trace.tb_next if trace else None)
        )
    text = lines.rstrip("\n").encode("utf-8", "backslashreplace")
    if len(text) > _MAX_ERROR:
        text = text[: _MAX_ERROR // 4] + b"\n...\n" + text[-(_MAX_ERROR * 3 // 4 - 16) :]
    return text.decode("utf-8", "ignore")
