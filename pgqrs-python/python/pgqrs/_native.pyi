"""The native half. A call that takes a bridge and a number is answered through that bridge; what it
answers with is what the friendly half declares."""

from asyncio import Future
from datetime import datetime
from typing import Any, Optional, final

__all__ = [
    "Action",
    "Admin",
    "Bridge",
    "CallerCall",
    "Consumer",
    "Leases",
    "Message",
    "Producer",
    "Registration",
    "RunLoop",
    "Store",
    "Transaction",
    "Wakeups",
    "connect",
    "schema_missing",
]

@final
class Bridge:
    def __new__(cls) -> Bridge: ...
    def fileno(self) -> int: ...
    def resolve(self, pending: dict[int, Future[Any]]) -> None: ...

@final
class Message:
    """A message that a consumer holds. Times are in UTC."""

    @property
    def id(self) -> int:
        """Its number: unique in the store, never reused."""
    @property
    def token(self) -> int:
        """With the id the receipt, which proves the lease."""
    @property
    def queue(self) -> str: ...
    @property
    def payload(self) -> Any:
        """The JSON value that was enqueued, or what a codec made of it."""
    @property
    def headers(self) -> dict[str, Any]: ...
    @property
    def priority(self) -> int: ...
    @property
    def enqueued_at(self) -> datetime: ...
    @property
    def claimed_at(self) -> datetime: ...
    @property
    def visible_at(self) -> datetime:
        """When the lease ends unless it is extended."""
    @property
    def attempts(self) -> int:
        """Attempts so far, this one included."""
    @property
    def max_attempts(self) -> int: ...
    @property
    def worker(self) -> Optional[int]:
        """The number of the registered consumer that holds it, if one does."""
    @property
    def last_error(self) -> Optional[str]:
        """Why the last failed attempt failed."""
    def with_payload(self, payload: Any) -> Message: ...

@final
class Action:
    @staticmethod
    def archive() -> Action: ...
    @staticmethod
    def delete() -> Action: ...
    @staticmethod
    def release(delay: int) -> Action: ...
    @staticmethod
    def fail(error: str, delay: Optional[int]) -> Action: ...
    @staticmethod
    def extend(timeout: int) -> Action: ...
    @property
    def extends(self) -> Optional[int]: ...

@final
class Leases:
    def hold(self, id: int, token: int, micros: int, lasts: int) -> None: ...
    def drop(self, id: int, token: int) -> bool: ...
    def is_held(self, id: int, token: int) -> bool: ...
    def close(self) -> None: ...

@final
class Wakeups:
    def wait(self, bridge: Bridge, call: int, micros: int) -> None: ...

@final
class Store:
    def enqueue(
        self,
        bridge: Bridge,
        call: int,
        queue: str,
        payloads: list[Any],
        headers: Optional[dict[str, Any]],
        priority: int,
        delay: int,
        max_attempts: Optional[int],
        at: Optional[datetime],
    ) -> None: ...
    def claim(
        self,
        bridge: Bridge,
        call: int,
        queue: str,
        limit: int,
        vt: Optional[int],
        at: Optional[datetime],
    ) -> None: ...
    def settle(
        self,
        bridge: Bridge,
        call: int,
        settlements: list[tuple[int, int, Action]],
        at: Optional[datetime],
    ) -> None: ...
    def retry_delay(self, bridge: Bridge, call: int, queue: str, attempts: int) -> None: ...
    def notify(self, bridge: Bridge, call: int, queue: str) -> None: ...
    def leases(self) -> Leases: ...
    def wakeups(self, queue: str) -> Wakeups: ...

@final
class CallerCall:
    @staticmethod
    def enqueue(
        store: Store,
        queue: str,
        payloads: list[Any],
        headers: Optional[dict[str, Any]],
        priority: int,
        delay: int,
        max_attempts: Optional[int],
    ) -> CallerCall: ...
    @staticmethod
    def archive(store: Store, id: int, token: int) -> CallerCall: ...
    def next(
        self, placeholders: str, answer: Optional[tuple[list[str], list[list[Any]]]]
    ) -> tuple[Optional[str], list[Any]]: ...

@final
class Transaction:
    @staticmethod
    def begin(bridge: Bridge, call: int, store: Store, timeout: int) -> None: ...
    def execute(self, bridge: Bridge, call: int, sql: str, values: Any) -> None: ...
    def fetch(self, bridge: Bridge, call: int, sql: str, values: Any) -> None: ...
    def enqueue(
        self,
        bridge: Bridge,
        call: int,
        store: Store,
        queue: str,
        payloads: list[Any],
        headers: Optional[dict[str, Any]],
        priority: int,
        delay: int,
        max_attempts: Optional[int],
    ) -> None: ...
    def archive(
        self, bridge: Bridge, call: int, store: Store, receipts: list[tuple[int, int]]
    ) -> None: ...
    def commit(self, bridge: Bridge, call: int) -> None: ...
    def rollback(self, bridge: Bridge, call: int) -> None: ...

@final
class Registration:
    def status(self, bridge: Bridge, call: int) -> None: ...
    def transition(self, bridge: Bridge, call: int, change: str) -> None: ...
    def made(self) -> dict[str, Any]: ...

@final
class Consumer:
    @staticmethod
    def register(
        bridge: Bridge,
        call: int,
        store: Store,
        queue: str,
        host: str,
        port: int,
        heartbeat_timeout: Optional[int],
        at: Optional[datetime],
    ) -> None: ...
    def claim(
        self, bridge: Bridge, call: int, limit: int, vt: Optional[int], at: Optional[datetime]
    ) -> None: ...
    def settle(
        self, bridge: Bridge, call: int, settlements: list[tuple[int, Optional[int], Action]]
    ) -> None: ...
    def worker(self) -> Registration: ...

@final
class Producer:
    @staticmethod
    def register(
        bridge: Bridge,
        call: int,
        store: Store,
        queue: str,
        host: str,
        port: int,
        heartbeat_timeout: Optional[int],
        at: Optional[datetime],
    ) -> None: ...
    def enqueue(
        self,
        bridge: Bridge,
        call: int,
        payloads: list[Any],
        headers: Optional[dict[str, Any]],
        priority: int,
        delay: int,
        max_attempts: Optional[int],
    ) -> None: ...
    def worker(self) -> Registration: ...

@final
class RunLoop:
    def __new__(
        cls,
        store: Store,
        queue: str,
        identity: Optional[tuple[str, int]],
        concurrency: int,
        prefetch: Optional[int],
        vt: Optional[int],
        timeout: Optional[int],
        grace: int,
        poll_interval: int,
    ) -> RunLoop: ...
    def run(self, bridge: Bridge, call: int) -> None: ...
    def events(self, bridge: Bridge, call: int) -> None: ...
    def settle(
        self,
        archived: list[int],
        others: list[tuple[int, str, Optional[str], Optional[int]]],
    ) -> None: ...
    def stop(self) -> None: ...
    def abandon(self) -> None: ...

@final
class Admin:
    def __new__(cls, store: Store) -> Admin: ...
    def install(self, bridge: Bridge, call: int) -> None: ...
    def verify(self, bridge: Bridge, call: int) -> None: ...
    def doctor(self, bridge: Bridge, call: int) -> None: ...
    def payload_limit(self, bridge: Bridge, call: int, limit: Optional[int]) -> None: ...
    def create_queue(
        self,
        bridge: Bridge,
        call: int,
        queue: str,
        vt: Optional[int],
        max_attempts: Optional[int],
        retry: Optional[tuple[str, int, int]],
        retention: Optional[int],
    ) -> None: ...
    def update_queue(
        self,
        bridge: Bridge,
        call: int,
        queue: str,
        vt: Optional[int],
        max_attempts: Optional[int],
        retry: Optional[tuple[str, int, int]],
    ) -> None: ...
    def pause(self, bridge: Bridge, call: int, queue: str, paused: bool) -> None: ...
    def retention(
        self, bridge: Bridge, call: int, queue: str, retention: Optional[int]
    ) -> None: ...
    def delete_queue(self, bridge: Bridge, call: int, queue: str, force: bool) -> None: ...
    def queues(self, bridge: Bridge, call: int, queue: Optional[str]) -> None: ...
    def metrics(self, bridge: Bridge, call: int, queue: Optional[str]) -> None: ...
    def messages(
        self,
        bridge: Bridge,
        call: int,
        queue: Optional[str],
        state: Optional[str],
        worker: Optional[int],
        id: Optional[int],
        after: Optional[int],
        limit: int,
    ) -> None: ...
    def archive(
        self,
        bridge: Bridge,
        call: int,
        queue: Optional[str],
        outcome: Optional[str],
        id: Optional[int],
        after: Optional[int],
        limit: int,
    ) -> None: ...
    def redrive(
        self, bridge: Bridge, call: int, queue: str, ids: Optional[list[int]], limit: int
    ) -> None: ...
    def purge(self, bridge: Bridge, call: int, queue: str, what: str) -> None: ...
    def workers(
        self,
        bridge: Bridge,
        call: int,
        queue: Optional[str],
        state: Optional[str],
        after: Optional[int],
        limit: int,
    ) -> None: ...
    def transition(self, bridge: Bridge, call: int, id: int, change: str) -> None: ...
    def sweep(self, bridge: Bridge, call: int) -> None: ...

def connect(bridge: Bridge, call: int, url: str) -> None: ...
def schema_missing(store: Store) -> None: ...
