"""The caller's own transaction on Postgres, with each driver."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from conftest import counts, eventually
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import pgqrs
import pgqrs.sync


class Undo(Exception):
    """Rolls a block back."""


@asynccontextmanager
async def with_asyncpg(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def with_asyncpg_pool(url: str) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection, connection.transaction():
            yield connection


@asynccontextmanager
async def with_psycopg(url: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield connection


@asynccontextmanager
async def with_psycopg_autocommit(url: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        async with connection.transaction():
            yield connection


def of_driver(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://", 1)


@asynccontextmanager
async def with_sqlalchemy(url: str, driver: str) -> AsyncIterator[Any]:
    engine = create_async_engine(of_driver(url, driver))
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


@asynccontextmanager
async def with_sqlalchemy_asyncpg(url: str) -> AsyncIterator[Any]:
    async with with_sqlalchemy(url, "asyncpg") as connection:
        yield connection


@asynccontextmanager
async def with_sqlalchemy_psycopg(url: str) -> AsyncIterator[Any]:
    async with with_sqlalchemy(url, "psycopg") as connection:
        yield connection


@asynccontextmanager
async def with_sqlalchemy_session(url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(of_driver(url, "asyncpg"))
    try:
        async with AsyncSession(engine) as session, session.begin():
            yield session
    finally:
        await engine.dispose()


Open = Callable[[str], Any]
DRIVERS: list[Open] = [
    with_asyncpg,
    with_asyncpg_pool,
    with_psycopg,
    with_psycopg_autocommit,
    with_sqlalchemy_asyncpg,
    with_sqlalchemy_psycopg,
    with_sqlalchemy_session,
]
each_driver = pytest.mark.parametrize("open", DRIVERS, ids=lambda open: open.__name__[5:])


async def write(connection: Any, table: str) -> None:
    """Writes a row of the caller's own."""
    statement: Any = f"insert into {table} values (1)"
    if type(connection).__module__.startswith("sqlalchemy"):
        statement = sqlalchemy.text(statement)
    await connection.execute(statement)


async def rows(url: str, table: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        found: int = await connection.fetchval(f"select count(*) from {table}")
        return found
    finally:
        await connection.close()


@pytest.fixture
async def store(postgres_url: str) -> pgqrs.Store:
    return await pgqrs.connect(postgres_url)


@pytest.fixture
async def table(postgres_url: str) -> str:
    name = f"effects_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"create table {name} (n int)")
    await connection.close()
    return name


@each_driver
async def test_a_message_comes_with_the_commit(
    store: pgqrs.Store, queue: str, table: str, postgres_url: str, open: Open
) -> None:
    payload = {"percent": "100 %s %(x)s", "colon": ":p1 ::int", "nul": "\0", "é": [1.5, None]}
    async with open(postgres_url) as connection:
        await write(connection, table)
        options: dict[str, Any] = {"headers": {"trace": "a%b"}, "priority": 9, "max_attempts": 2}
        id = await store.enqueue_in(connection, queue, payload, **options)
        other = await pgqrs.enqueue_in(connection, store, queue, "later", delay=3600)
        assert await counts(store, queue) == (0, 0, 0)
    assert await rows(postgres_url, table) == 1
    [message] = await store.dequeue(queue, batch_size=10)
    assert (message.id, message.payload, message.headers) == (id, payload, {"trace": "a%b"})
    assert (message.priority, message.max_attempts) == (9, 2)
    delayed = await pgqrs.admin(store).message(other)
    assert other > id and delayed and delayed.state == "delayed"


@each_driver
async def test_a_message_goes_with_the_rollback(
    store: pgqrs.Store, queue: str, table: str, postgres_url: str, open: Open
) -> None:
    with pytest.raises(Undo):
        async with open(postgres_url) as connection:
            await write(connection, table)
            assert len(await store.enqueue_many_in(connection, queue, range(3))) == 3
            raise Undo
    assert await counts(store, queue) == (0, 0, 0)
    assert await rows(postgres_url, table) == 0


@each_driver
async def test_an_effect_and_its_messages_end_are_one_commit(
    store: pgqrs.Store, queue: str, table: str, postgres_url: str, open: Open
) -> None:
    await store.enqueue(queue, "job")
    [message] = await store.dequeue(queue)
    with pytest.raises(Undo):
        async with open(postgres_url) as connection:
            await write(connection, table)
            await store.archive_in(connection, message)
            raise Undo
    assert (await counts(store, queue), await rows(postgres_url, table)) == ((0, 1, 0), 0)
    async with open(postgres_url) as connection:
        await write(connection, table)
        await pgqrs.archive_in(connection, store, message)
    assert (await counts(store, queue), await rows(postgres_url, table)) == ((0, 0, 1), 1)
    # As everywhere, repeating it with the same receipt is no error.
    async with open(postgres_url) as connection:
        await store.archive_in(connection, message)


@each_driver
async def test_a_lost_lease_undoes_the_effect(
    store: pgqrs.Store, queue: str, table: str, postgres_url: str, open: Open
) -> None:
    await store.enqueue(queue, "job")
    [message] = await store.dequeue(queue)
    await store.release(message)
    [again] = await store.dequeue(queue)
    with pytest.raises(pgqrs.LeaseLostError) as lost:
        async with open(postgres_url) as connection:
            await write(connection, table)
            await store.archive_in(connection, message)
    assert lost.value.id == message.id
    assert (await counts(store, queue), await rows(postgres_url, table)) == ((0, 1, 0), 0)
    await store.archive(again)


@each_driver
async def test_errors_name_the_queue_and_the_limit_and_the_transaction_goes_on(
    store: pgqrs.Store, queue: str, postgres_url: str, open: Open
) -> None:
    async with open(postgres_url) as connection:
        with pytest.raises(pgqrs.QueueNotFoundError, match="create_queue") as missing:
            await store.enqueue_in(connection, "no-such-queue", 1)
        assert missing.value.queue == "no-such-queue"
        with pytest.raises(pgqrs.PayloadTooLargeError) as large:
            await store.enqueue_many_in(connection, queue, ["small", "x" * 2_000_000])
        assert (large.value.index, large.value.limit) == (1, 1024 * 1024)
        with pytest.raises(pgqrs.OutOfRangeError):
            await store.enqueue_many_in(connection, queue, [])
        with pytest.raises(pgqrs.PayloadError):
            await store.enqueue_in(connection, queue, float("nan"))
        await store.enqueue_in(connection, queue, "still here")
    assert await counts(store, queue) == (1, 0, 0)


async def test_an_expired_lease_that_nobody_took_can_be_archived(
    store: pgqrs.Store, queue: str, postgres_url: str
) -> None:
    await store.enqueue_many(queue, ["held", "other"])
    [message] = await store.dequeue(queue, vt=0.001)

    async def has_lapsed() -> bool:
        found = await pgqrs.admin(store).message(message.id)
        return found is not None and found.state == "ready"

    await eventually(has_lapsed)
    # A claim that looks for what is due moves it to where claims find it, behind the other one.
    await store.dequeue(queue)
    async with with_asyncpg(postgres_url) as connection:
        await store.archive_in(connection, message)
    archived = await pgqrs.admin(store).archived(message.id)
    assert archived and archived.outcome == "done"


async def test_outside_a_transaction_it_is_refused(
    store: pgqrs.Store, queue: str, postgres_url: str
) -> None:
    connection = await asyncpg.connect(postgres_url)
    with pytest.raises(RuntimeError, match="not in a transaction"):
        await store.enqueue_in(connection, queue, 1)
    await connection.close()
    other = await psycopg.AsyncConnection.connect(postgres_url, autocommit=True)
    with pytest.raises(RuntimeError, match="not in a transaction"):
        await store.enqueue_in(other, queue, 1)
    await other.close()
    assert await counts(store, queue) == (0, 0, 0)


async def test_other_connections_and_faces_are_refused(
    store: pgqrs.Store, queue: str, postgres_url: str
) -> None:
    with pytest.raises(TypeError, match="builtins.object is no connection"):
        await store.enqueue_in(object(), queue, 1)
    with psycopg.connect(postgres_url) as connection:
        with pytest.raises(TypeError, match=r"pgqrs\.sync\.connect"):
            await store.enqueue_in(connection, queue, 1)


async def test_without_the_schema_the_error_says_how_to_install_it(postgres_url: str) -> None:
    schema = f"none_{os.getpid()}"
    missing = await pgqrs.connect(f"{postgres_url}?pgqrs_schema={schema}")
    with pytest.raises(pgqrs.SchemaMissingError, match="install") as error:
        async with with_asyncpg(postgres_url) as connection:
            await missing.enqueue_in(connection, "tasks", 1)
    assert error.value.schema == schema


async def test_idle_workers_are_woken_after_the_commit(
    store: pgqrs.Store, queue: str, postgres_url: str
) -> None:
    worker = pgqrs.Worker(store, queue, lambda msg: worker.stop(), poll_interval=3600)
    run = asyncio.ensure_future(worker.run(signals=False))

    async def is_idle() -> bool:
        return bool(await pgqrs.admin(store).workers(queue, state="ready"))

    await eventually(is_idle)
    async with with_asyncpg(postgres_url) as connection:
        await store.enqueue_in(connection, queue, "job")

    async def is_handled() -> bool:
        await store.notify(queue)
        return run.done()

    await eventually(is_handled)
    assert (await run).handled == 1


async def test_a_handler_may_archive_its_own_message(
    store: pgqrs.Store, queue: str, table: str, postgres_url: str
) -> None:
    await store.enqueue(queue, "job")

    async def handler(msg: pgqrs.Message) -> None:
        async with with_asyncpg(postgres_url) as connection:
            await write(connection, table)
            await store.archive_in(connection, msg)

    assert await pgqrs.consume(store, queue, handler) == 1
    assert (await counts(store, queue), await rows(postgres_url, table)) == ((0, 0, 1), 1)


Work = Callable[[Any], Any]


def in_psycopg(url: str, work: Work) -> None:
    with psycopg.connect(url) as connection:
        work(connection)


def in_sqlalchemy(url: str, work: Work) -> None:
    engine = sqlalchemy.create_engine(of_driver(url, "psycopg"))
    with engine.begin() as connection:
        work(connection)
    engine.dispose()


def in_session(url: str, work: Work) -> None:
    engine = sqlalchemy.create_engine(of_driver(url, "psycopg"))
    with Session(engine) as session, session.begin():
        work(session)
    engine.dispose()


def in_django(url: str, work: Work) -> None:
    from django.db import connection, transaction

    django_on(url)
    try:
        with transaction.atomic():
            work(connection)
    finally:
        connection.close()


def django_on(url: str) -> None:
    """Django with nothing but this database."""
    from django.conf import settings
    from django.db import connections
    from sqlalchemy.engine import make_url

    at = make_url(url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": at.database,
        "USER": at.username,
        "PASSWORD": at.password or "",
        "HOST": at.host or at.query.get("host", ""),
        "PORT": at.port or at.query.get("port", ""),
    }
    if not settings.configured:
        settings.configure(DATABASES={"default": database})
    else:
        connections["default"].settings_dict.update(database)


@pytest.mark.parametrize("run", [in_psycopg, in_sqlalchemy, in_session, in_django])
def test_sync_connections(postgres_url: str, run: Callable[[str, Work], None]) -> None:
    store = pgqrs.sync.connect(postgres_url)
    queue = f"sync-{uuid.uuid4().hex}"
    store.create_queue(queue)

    def enqueue_and_undo(connection: Any) -> None:
        store.enqueue_in(connection, queue, "gone")
        raise Undo

    with pytest.raises(Undo):
        run(postgres_url, enqueue_and_undo)
    run(postgres_url, lambda it: pgqrs.sync.enqueue_in(it, store, queue, {"percent": "%s"}))
    [message] = store.dequeue(queue)
    assert message.payload == {"percent": "%s"}
    run(postgres_url, lambda it: pgqrs.sync.archive_in(it, store, message))
    [metrics] = pgqrs.sync.admin(store).metrics(queue)
    assert (metrics.archived, metrics.live) == (1, 0)
    store.enqueue(queue, "job")
    [message] = store.dequeue(queue)
    store.delete(message)
    with pytest.raises(pgqrs.LeaseLostError):
        run(postgres_url, lambda it: store.archive_in(it, message))
    with pytest.raises(pgqrs.QueueNotFoundError):
        run(postgres_url, lambda it: store.enqueue_in(it, "no-such-queue", 1))


def test_django_outside_atomic_is_refused(postgres_url: str) -> None:
    from django.db import connection

    django_on(postgres_url)
    store = pgqrs.sync.connect(postgres_url)
    with pytest.raises(RuntimeError, match="not in a transaction"):
        store.enqueue_in(connection, "tasks", 1)
    connection.close()
