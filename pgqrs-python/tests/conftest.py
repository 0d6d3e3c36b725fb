"""Stores to test on: SQLite in a fresh file, and Postgres where a server is named."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

import pgqrs

POSTGRES = "PGQRS_TEST_POSTGRES_URL"


@contextmanager
def database() -> Iterator[str]:
    """A database on the server that is named; one that cannot be used is a failure."""
    server = os.environ.get(POSTGRES)
    if not server:
        pytest.skip(f"{POSTGRES} is not set")
    import asyncpg

    name = f"pgqrs_python_{uuid.uuid4().hex[:12]}"

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(server)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def install(url: str) -> None:
        await pgqrs.admin(await pgqrs.connect(url)).install()

    url = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    asyncio.run(execute(f"create database {name}"))
    try:
        asyncio.run(install(url))
        yield url
    finally:
        asyncio.run(execute(f"drop database {name} with (force)"))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A database of this test session."""
    with database() as url:
        yield url


@pytest.fixture
def own_postgres_url() -> Iterator[str]:
    """A database of this test alone."""
    with database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the store of this test is."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
async def store(url: str) -> AsyncIterator[pgqrs.Store]:
    """A store."""
    yield await pgqrs.connect(url)


@pytest.fixture
async def queue(store: pgqrs.Store) -> str:
    """A queue of this test alone, which retries without delay."""
    name = f"q-{uuid.uuid4().hex}"
    await store.create_queue(name, retry=pgqrs.Backoff.fixed(0))
    return name


async def counts(store: pgqrs.Store, queue: str) -> tuple[int, int, int]:
    """How many messages are ready, leased and archived."""
    [metrics] = await pgqrs.admin(store).metrics(queue)
    return metrics.ready, metrics.leased, metrics.archived


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until ``condition`` holds, at most 20 seconds."""
    async with asyncio_timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)


class asyncio_timeout:
    """``asyncio.timeout``, which Python 3.9 and 3.10 do not have."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handle = asyncio.get_running_loop().call_later(self._seconds, task.cancel)

    async def __aexit__(self, *_: object) -> None:
        self._handle.cancel()
