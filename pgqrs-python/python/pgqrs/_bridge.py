"""Calls from an event loop into the native half: one socket per loop, any number of calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from . import _native

_bridges: WeakKeyDictionary[asyncio.AbstractEventLoop, _Bridge] = WeakKeyDictionary()


def call(method: Callable[..., None], *args: Any) -> asyncio.Future[Any]:
    """Starts ``method(bridge, number, *args)``; the running loop's future has its answer.

    The work goes on when the future is cancelled; what it leases is then given back.
    """
    loop = asyncio.get_running_loop()
    bridge = _bridges.get(loop)
    if bridge is None:
        bridge = _bridges[loop] = _Bridge(loop)
    return bridge.call(loop, method, args)


class _Bridge:
    """The calls of one event loop that are not yet answered. It must not refer to its loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._native = _native.Bridge()
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        loop.add_reader(self._native.fileno(), self._native.resolve, self._pending)

    def call(
        self, loop: asyncio.AbstractEventLoop, method: Callable[..., None], args: tuple[Any, ...]
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = loop.create_future()
        self._number = number = self._number + 1
        self._pending[number] = future
        try:
            method(self._native, number, *args)
        except BaseException:
            del self._pending[number]
            raise
        return future
