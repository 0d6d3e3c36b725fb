"""A reliable message queue in the database you already run.

>>> import asyncio, pgqrs
>>> async def main():
...     store = await pgqrs.connect("sqlite::memory:")  # or sqlite:///jobs.db, postgresql://…
...     await store.create_queue("tasks")
...     await store.enqueue("tasks", {"to": "ada@example.org"})
...
...     async def handler(msg):
...         print("mail to", msg.payload["to"])
...         return True
...
...     await pgqrs.consume(store, "tasks", handler)
>>> asyncio.run(main())
mail to ada@example.org
"""

from ._admin import Admin, admin
from ._codec import Codec, DataclassCodec, PydanticCodec
from ._consume import consume
from ._consumer import Consumer, Producer
from ._errors import (
    BackendError,
    ForkedError,
    IllegalTransitionError,
    InvalidQueueNameError,
    InvalidUrlError,
    LeaseLostError,
    OutOfRangeError,
    PayloadError,
    PayloadTooLargeError,
    PermissionDeniedError,
    PgqrsError,
    QueueNotEmptyError,
    QueueNotFoundError,
    SchemaDriftError,
    SchemaError,
    SchemaMissingError,
    SchemaTooNewError,
    StatementError,
    TransactionExpiredError,
    UnavailableError,
    UnknownSchemeError,
    UnsupportedError,
    WorkerNotFoundError,
    WorkerNotReadyError,
    WrongQueueError,
)
from ._functions import (
    archive,
    archive_in,
    delete,
    dequeue,
    enqueue_in,
    extend_vt,
    fail,
    release,
)
from ._handler import Handler, Retry
from ._iterator import MessageIterator
from ._native import Message
from ._records import (
    ArchivedMessage,
    Backoff,
    Finding,
    LiveMessage,
    Queue,
    QueueMetrics,
    Report,
    Swept,
    WorkerRecord,
)
from ._store import Store, connect
from ._transaction import Transaction
from ._units import Duration
from ._worker import Worker

__all__ = [
    "Admin",
    "ArchivedMessage",
    "BackendError",
    "Backoff",
    "Codec",
    "Consumer",
    "DataclassCodec",
    "Duration",
    "Finding",
    "ForkedError",
    "Handler",
    "IllegalTransitionError",
    "InvalidQueueNameError",
    "InvalidUrlError",
    "LeaseLostError",
    "LiveMessage",
    "Message",
    "MessageIterator",
    "OutOfRangeError",
    "PayloadError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "PgqrsError",
    "Producer",
    "PydanticCodec",
    "Queue",
    "QueueMetrics",
    "QueueNotEmptyError",
    "QueueNotFoundError",
    "Report",
    "Retry",
    "SchemaDriftError",
    "SchemaError",
    "SchemaMissingError",
    "SchemaTooNewError",
    "StatementError",
    "Store",
    "Swept",
    "Transaction",
    "TransactionExpiredError",
    "UnavailableError",
    "UnknownSchemeError",
    "UnsupportedError",
    "Worker",
    "WorkerNotFoundError",
    "WorkerNotReadyError",
    "WorkerRecord",
    "WrongQueueError",
    "admin",
    "archive",
    "archive_in",
    "connect",
    "consume",
    "delete",
    "dequeue",
    "enqueue_in",
    "extend_vt",
    "fail",
    "release",
]
