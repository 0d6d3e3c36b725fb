"""What reads return."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Optional

from ._units import Duration, micros


@dataclass(frozen=True)
class Backoff:
    """The delay between a failed attempt and the next one; see the three ways to make one."""

    kind: str
    delay: timedelta
    max: timedelta

    @staticmethod
    def fixed(delay: Duration) -> Backoff:
        """Always ``delay``."""
        return Backoff("fixed", _duration(delay), _duration(delay))

    @staticmethod
    def linear(step: Duration, max: Duration) -> Backoff:
        """``step``, ``2 * step``, … up to ``max``."""
        return Backoff("linear", _duration(step), _duration(max))

    @staticmethod
    def exponential(base: Duration, max: Duration) -> Backoff:
        """A random delay up to ``base``, up to ``2 * base``, … up to ``max``."""
        return Backoff("exponential", _duration(base), _duration(max))


@dataclass(frozen=True)
class Queue:
    """A queue and its settings."""

    name: str
    paused: bool
    visibility_timeout: timedelta
    max_attempts: int
    retry: Backoff
    #: How long the archive keeps messages; ``None`` is for ever.
    retention: Optional[timedelta]
    created_at: datetime


@dataclass(frozen=True)
class QueueMetrics:
    """What a queue holds at the moment ``now``."""

    queue: str
    ready: int
    delayed: int
    leased: int
    archived: int
    dead: int
    oldest_ready_at: Optional[datetime]
    now: datetime
    workers_ready: int
    workers_suspended: int
    workers_stopped: int

    @property
    def live(self) -> int:
        """Messages not yet archived or deleted."""
        return self.ready + self.delayed + self.leased

    @property
    def oldest_ready_age(self) -> Optional[timedelta]:
        """How long the longest-waiting ready message has been claimable."""
        return None if self.oldest_ready_at is None else self.now - self.oldest_ready_at


@dataclass(frozen=True)
class WorkerRecord:
    """A registration: ``kind`` is ``consumer`` or ``producer``; ``state`` is ``ready``,
    ``suspended`` or ``stopped``."""

    id: int
    kind: str
    host: str
    port: int
    queue: str
    state: str
    heartbeat_timeout: Optional[timedelta]
    registered_at: datetime
    heartbeat_at: datetime
    stopped_at: Optional[datetime]
    replaced_by: Optional[int]


@dataclass(frozen=True)
class LiveMessage:
    """A live message; ``state`` is ``delayed``, ``ready`` or ``leased``."""

    id: int
    queue: str
    state: str
    payload: Any
    headers: Any
    priority: int
    enqueued_at: datetime
    visible_at: datetime
    attempts: int
    max_attempts: int
    worker: Optional[int]
    last_error: Optional[str]


@dataclass(frozen=True)
class ArchivedMessage:
    """A message as it ended; ``outcome`` is ``done``, or ``dead`` for a dead letter."""

    id: int
    queue: str
    outcome: str
    payload: Any
    headers: Any
    priority: int
    enqueued_at: datetime
    claimed_at: Optional[datetime]
    archived_at: datetime
    attempts: int
    max_attempts: int
    worker: Optional[int]
    last_error: Optional[str]


@dataclass(frozen=True)
class Swept:
    """What a maintenance pass did."""

    buried: int
    released: int
    workers_stopped: int
    workers_removed: int
    archive_removed: int


@dataclass(frozen=True)
class Finding:
    """One thing that :meth:`Admin.doctor` has looked at; ``health`` is ``well``, ``ailing`` or
    ``unknown``."""

    #: What was looked at, in a few words.
    check: str
    #: What was found, with its figures.
    detail: str
    health: str
    #: What to do about it if it is ailing; why it could not be looked at if it is unknown.
    advice: Optional[str]

    def __str__(self) -> str:
        found = f"{self.health}: {self.check}: {self.detail}"
        return found if self.advice is None else f"{found}; {self.advice}"


@dataclass(frozen=True)
class Report:
    """What a worker did from its start to its stop."""

    #: Messages archived.
    handled: int
    #: Attempts that failed and will be retried.
    failed: int
    #: Messages that became dead letters.
    dead: int
    #: Messages given back.
    released: int
    #: Leases lost: cancelled before they lapsed, or settled too late.
    lost: int
    #: Outcomes that the store did not take; those messages come back when their leases end.
    unsettled: int


def _duration(duration: Duration) -> timedelta:
    return timedelta(microseconds=micros(duration))
