"""Seconds, durations and instants as the native half takes them: whole microseconds, UTC."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from typing import Optional, Union

#: Seconds, or a ``timedelta``.
Duration = Union[float, timedelta]

_LONGEST = 2**62


def micros(duration: Duration) -> int:
    """``duration`` in whole microseconds, rounded up."""
    if isinstance(duration, timedelta):
        return duration // timedelta(microseconds=1)
    if isinstance(duration, bool) or not isinstance(duration, (int, float)):
        raise TypeError(f"a duration is seconds or a timedelta, not {type(duration).__name__}")
    if math.isnan(duration):
        raise ValueError("a duration cannot be NaN")
    if abs(duration) > _LONGEST // 1_000_000:
        return _LONGEST if duration > 0 else -_LONGEST
    if isinstance(duration, int):
        return duration * 1_000_000
    # Rounded first: 0.1 s is 100,000 microseconds, although 0.1 is a little more in binary.
    return math.ceil(round(duration * 1e6, 3))


def optional_micros(duration: Optional[Duration]) -> Optional[int]:
    """``duration`` in whole microseconds, if there is one."""
    return None if duration is None else micros(duration)


def utc(instant: Optional[datetime]) -> Optional[datetime]:
    """``instant`` in UTC, if there is one."""
    if instant is None:
        return None
    if instant.tzinfo is None:
        raise ValueError(f"{instant!r} has no time zone; say datetime.now(timezone.utc)")
    return instant.astimezone(timezone.utc)
