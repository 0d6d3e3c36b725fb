"""Leases that are renewed while their messages are in work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from ._native import Leases, Message
from ._units import micros


def hold(leases: Leases, messages: Iterable[Message], vt: Optional[int] = None) -> Leases:
    """Has the leases of ``messages`` renewed, for ``vt`` microseconds or as long as they were."""
    for message in messages:
        lasts = micros(message.visible_at - message.claimed_at)
        leases.hold(message.id, message.token, vt or lasts, lasts)
    return leases
