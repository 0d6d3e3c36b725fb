"""The exceptions: all are a ``PgqrsError``, each says what it is about in its attributes."""

from __future__ import annotations

from typing import Any


class PgqrsError(Exception):
    """Whatever pgqrs raises. Unless a class says otherwise, nothing was written."""

    def __init__(self, message: str = "", **attributes: Any) -> None:
        super().__init__(message)
        self.__dict__.update(attributes)


class QueueNotFoundError(PgqrsError):
    """The queue does not exist."""

    queue: str


class QueueNotEmptyError(PgqrsError):
    """The queue still has live messages and deletion was not forced."""

    queue: str
    live: int


class InvalidQueueNameError(PgqrsError, ValueError):
    """The name cannot be a queue's."""

    name: str


class WrongQueueError(PgqrsError):
    """The worker serves another queue."""

    worker: int
    serves: str
    asked: str


class PayloadError(PgqrsError, ValueError):
    """The payload, or the headers, cannot be JSON; the text says where and why."""


class PayloadTooLargeError(PgqrsError, ValueError):
    """The payload, or the headers, of message ``index`` have ``size`` bytes, ``limit`` are allowed."""

    index: int
    size: int
    limit: int


class OutOfRangeError(PgqrsError, ValueError):
    """A number is outside what is allowed."""

    what: str
    value: str
    allowed: str


class LeaseLostError(PgqrsError):
    """The message was claimed again, settled, swept or deleted; nothing was changed."""

    id: int


class WorkerNotReadyError(PgqrsError):
    """The worker is suspended or stopped; a stopped one registers anew."""

    worker: int
    state: str
    replaced_by: int | None


class WorkerNotFoundError(PgqrsError):
    """No such worker is registered."""

    worker: int


class IllegalTransitionError(PgqrsError):
    """Workers do not go from ``state`` to ``target``."""

    worker: int
    state: str
    target: str


class SchemaError(PgqrsError):
    """The database's schema is not as it must be."""


class SchemaMissingError(SchemaError):
    """The schema is not installed; ``await pgqrs.admin(store).install()`` does that."""

    schema: str


class SchemaTooNewError(SchemaError):
    """The schema is newer than this program."""

    found: int
    known: int


class SchemaDriftError(SchemaError):
    """The schema is not as it was installed."""

    findings: list[str]


class InvalidUrlError(PgqrsError, ValueError):
    """The URL cannot be used."""


class UnknownSchemeError(InvalidUrlError):
    """No backend serves URLs of this scheme."""

    scheme: str
    known: list[str]


class PermissionDeniedError(PgqrsError):
    """The database refuses this user."""


class UnavailableError(PgqrsError):
    """The database cannot be reached or did not answer in time: try again.

    What was asked **may have happened**: repeating an archive is safe, repeating an enqueue may
    enqueue twice.
    """


class UnsupportedError(PgqrsError):
    """This store does not offer the call."""


class BackendError(PgqrsError):
    """The database failed in a way that repeating does not mend."""


class StatementError(PgqrsError):
    """SQLite refuses a statement of yours in ``store.transaction()``; ``code`` is its extended result
    code, if it has one. The transaction goes on unless you leave its block."""

    code: int | None


class TransactionExpiredError(PgqrsError):
    """``store.transaction()`` was open for longer than its ``timeout``, in seconds, and was rolled
    back."""

    timeout: float


class ForkedError(PgqrsError, RuntimeError):
    """The store was opened before a fork; the child must connect by itself."""
