"""The caller's transaction on SQLite."""

import asyncio
from pathlib import Path

import pytest
from conftest import counts

import pgqrs
import pgqrs.sync


@pytest.fixture
async def store(tmp_path: Path) -> pgqrs.Store:
    store = await pgqrs.connect(f"sqlite:///{tmp_path}/jobs.db")
    async with store.transaction() as tx:
        await tx.execute("create table effects (name text unique, n int, x real, b blob)")
    return store


async def effects(store: pgqrs.Store) -> int:
    async with store.transaction() as tx:
        row = await tx.fetch_one("select count(*) from effects")
    assert row is not None
    return int(row[0])


async def test_effect_and_message_come_together(store: pgqrs.Store, queue: str) -> None:
    async with store.transaction() as tx:
        assert await tx.execute("insert into effects (name) values (?), (?)", ["a", "b"]) == 2
        id = await tx.enqueue(queue, {"to": "ada"}, priority=9, headers={"h": 1}, max_attempts=2)
        ids = await tx.enqueue_many(queue, range(2), delay=3600)
        assert await counts(store, queue) == (0, 0, 0)
    assert await effects(store) == 2
    [message] = await store.dequeue(queue, batch_size=5)
    assert (message.id, message.payload, message.headers) == (id, {"to": "ada"}, {"h": 1})
    assert ids[0] > id and (message.priority, message.max_attempts) == (9, 2)


async def test_an_exception_undoes_both(store: pgqrs.Store, queue: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.transaction() as tx:
            await tx.execute("insert into effects (name) values ('a')")
            await tx.enqueue(queue, 1)
            1 / 0
    assert (await counts(store, queue), await effects(store)) == ((0, 0, 0), 0)


async def test_effect_and_archive_are_one_commit(store: pgqrs.Store, queue: str) -> None:
    await store.enqueue(queue, "job")
    [message] = await store.dequeue(queue)
    with pytest.raises(ZeroDivisionError):
        async with store.transaction() as tx:
            await tx.archive(message)
            1 / 0
    assert await counts(store, queue) == (0, 1, 0)
    async with store.transaction() as tx:
        await tx.execute("insert into effects (name) values ('a')")
        await tx.archive(message)
    assert (await counts(store, queue), await effects(store)) == ((0, 0, 1), 1)


async def test_a_lost_lease_undoes_the_effect(store: pgqrs.Store, queue: str) -> None:
    await store.enqueue(queue, "job")
    [message] = await store.dequeue(queue)
    await store.release(message)
    with pytest.raises(pgqrs.LeaseLostError) as lost:
        async with store.transaction() as tx:
            await tx.execute("insert into effects (name) values ('a')")
            await tx.archive(message)
    assert lost.value.id == message.id
    assert (await counts(store, queue), await effects(store)) == ((1, 0, 0), 0)


async def test_errors_leave_the_transaction_open(store: pgqrs.Store, queue: str) -> None:
    async with store.transaction() as tx:
        with pytest.raises(pgqrs.QueueNotFoundError):
            await tx.enqueue("no-such-queue", 1)
        with pytest.raises(pgqrs.PayloadTooLargeError):
            await tx.enqueue(queue, "x" * 2_000_000)
        await tx.execute("insert into effects (name) values ('a')")
        with pytest.raises(pgqrs.StatementError, match="UNIQUE") as unique:
            await tx.execute("insert into effects (name) values ('a')")
        assert unique.value.code == 2067
        for wrong in ("selekt", "select 1; select 2", "insert into effects values (?)"):
            with pytest.raises(pgqrs.StatementError):
                await tx.fetch(wrong)
        await tx.enqueue(queue, 1)
    assert (await counts(store, queue), await effects(store)) == ((1, 0, 0), 1)


async def test_values_go_in_and_come_back(store: pgqrs.Store) -> None:
    async with store.transaction() as tx:
        row = ("é", 2**62, 0.5, b"\0\1")
        await tx.execute("insert into effects values (?, ?, ?, ?)", row)
        assert await tx.fetch("select * from effects") == [row]
        named = await tx.fetch_one("select :a, :b, :c", {"a": True, ":b": None, "c": "x"})
        assert named == (1, None, "x")
        assert await tx.fetch_one("select 1 from effects where n = ?", [0]) is None
        returned = await tx.fetch("insert into effects (n) values (7) returning n")
        assert returned == [(7,)]
        with pytest.raises(TypeError, match="no SQLite value"):
            await tx.execute("select ?", [object()])
        with pytest.raises(TypeError, match="for one"):
            await tx.execute("select ?", "text")


async def test_one_that_is_open_for_too_long_is_rolled_back(store: pgqrs.Store, queue: str) -> None:
    with pytest.raises(pgqrs.TransactionExpiredError, match="slow work") as expired:
        async with store.transaction(timeout=0.02) as tx:
            await tx.enqueue(queue, 1)
            # Waits for the lock, which is free when the transaction has been rolled back.
            await store.enqueue(queue, 2)
            await tx.execute("insert into effects (name) values ('a')")
    assert expired.value.timeout == 0.02
    assert (await counts(store, queue), await effects(store)) == ((1, 0, 0), 0)


async def test_a_statement_that_takes_too_long_is_interrupted(store: pgqrs.Store) -> None:
    endless = "with recursive n (n) as (select 1 union all select n + 1 from n) select sum(n) from n"
    with pytest.raises(pgqrs.TransactionExpiredError):
        async with store.transaction(timeout=0.02) as tx:
            await tx.fetch(endless)
    assert await effects(store) == 0


async def test_a_cancelled_block_is_rolled_back(store: pgqrs.Store, queue: str) -> None:
    begun = asyncio.Event()

    async def block() -> None:
        async with store.transaction(timeout=60) as tx:
            await tx.enqueue(queue, 1)
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(block())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await counts(store, queue) == (0, 0, 0)
    await store.enqueue(queue, 2)


async def test_statements_that_end_it_are_told(store: pgqrs.Store, queue: str) -> None:
    with pytest.raises(pgqrs.PgqrsError, match="ended the transaction"):
        async with store.transaction() as tx:
            await tx.enqueue(queue, 1)
            await tx.execute("rollback")
    assert await counts(store, queue) == (0, 0, 0)


async def test_it_is_begun_once_and_with_a_block(store: pgqrs.Store) -> None:
    tx = store.transaction()
    with pytest.raises(RuntimeError, match="async with"):
        await tx.execute("select 1")
    async with tx:
        pass
    with pytest.raises(RuntimeError, match="again"):
        async with tx:
            pass
    with pytest.raises(pgqrs.PgqrsError, match="has ended"):
        await tx.execute("select 1")


async def test_in_memory_there_is_none() -> None:
    store = await pgqrs.connect("sqlite::memory:")
    with pytest.raises(pgqrs.BackendError, match="use a file"):
        async with store.transaction():
            pass


async def test_each_backend_points_to_its_own_way(postgres_url: str, store: pgqrs.Store) -> None:
    other = await pgqrs.connect(postgres_url)
    with pytest.raises(pgqrs.UnsupportedError, match="enqueue_in"):
        async with other.transaction():
            pass
    import asyncpg

    connection = await asyncpg.connect(postgres_url)
    with pytest.raises(pgqrs.UnsupportedError, match=r"store\.transaction"):
        await store.enqueue_in(connection, "tasks", 1)
    await connection.close()


def test_sync(tmp_path: Path) -> None:
    store = pgqrs.sync.connect(f"sqlite:///{tmp_path}/jobs.db")
    store.create_queue("tasks")
    with store.transaction() as tx:
        tx.execute("create table effects (n int)")
        tx.execute("insert into effects values (?)", [1])
        tx.enqueue("tasks", "job")
    [message] = store.dequeue("tasks")
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        tx.archive(message)
        1 / 0
    with store.transaction() as tx:
        assert tx.fetch("select n from effects") == [(1,)]
        assert tx.fetch_one("select n from effects") == (1,)
        assert tx.enqueue_many("tasks", range(2))
        tx.archive(message)
    [metrics] = pgqrs.sync.admin(store).metrics("tasks")
    assert (metrics.archived, metrics.ready) == (1, 2)
