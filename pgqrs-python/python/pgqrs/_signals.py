"""SIGTERM and SIGINT for whatever runs in an event loop."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_listening: WeakKeyDictionary[asyncio.AbstractEventLoop, _Listeners] = WeakKeyDictionary()


@contextmanager
def on_shutdown_signal(listener: Callable[[], None]) -> Iterator[None]:
    """Calls ``listener`` at each SIGTERM and SIGINT. Only the main thread can hear them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    listeners = _listening.setdefault(loop, _Listeners())
    listeners.add(loop, listener)
    try:
        yield
    finally:
        listeners.remove(loop, listener)


class _Listeners:
    """Those of one event loop. The first one takes the signals over, the last one puts back what
    was there before."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []
        self._before: dict[signal.Signals, Any] = {}

    def add(self, loop: asyncio.AbstractEventLoop, listener: Callable[[], None]) -> None:
        if not self._listeners:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.getsignal(number)
                loop.add_signal_handler(number, self._heard)
        self._listeners.append(listener)

    def remove(self, loop: asyncio.AbstractEventLoop, listener: Callable[[], None]) -> None:
        self._listeners.remove(listener)
        if not self._listeners:
            for number, before in self._before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, before)

    def _heard(self) -> None:
        for listener in list(self._listeners):
            listener()
