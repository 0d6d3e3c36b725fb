"""The exceptions: their tree, their attributes, their remedies."""

import inspect
import pickle
from pathlib import Path

import pytest

import pgqrs


def test_all_are_pgqrs_errors() -> None:
    errors = [e for n, e in vars(pgqrs).items() if n.endswith("Error") and inspect.isclass(e)]
    assert len(errors) == 25
    assert all(issubclass(error, pgqrs.PgqrsError) for error in errors)


async def test_an_unknown_queue(store: pgqrs.Store) -> None:
    for call in (
        lambda: store.enqueue("nowhere", 1),
        lambda: store.dequeue("nowhere"),
        lambda: store.consumer("nowhere"),
        lambda: pgqrs.admin(store).metrics("nowhere"),
        lambda: pgqrs.Worker(store, "nowhere", print).run(signals=False),
    ):
        with pytest.raises(pgqrs.QueueNotFoundError) as missing:
            await call()
        assert missing.value.queue == "nowhere"
        assert 'await store.create_queue("nowhere")' in str(missing.value)


async def test_bad_names(store: pgqrs.Store) -> None:
    for name in ("", "a b", "x" * 64, "é"):
        with pytest.raises(pgqrs.InvalidQueueNameError) as bad:
            await store.create_queue(name)
        assert bad.value.name == name


async def test_bad_urls(tmp_path: Path) -> None:
    with pytest.raises(pgqrs.UnknownSchemeError) as unknown:
        await pgqrs.connect("mysql://localhost")
    assert unknown.value.scheme == "mysql" and "sqlite" in unknown.value.known
    with pytest.raises(pgqrs.InvalidUrlError):
        await pgqrs.connect(f"sqlite:///{tmp_path}/missing/jobs.db")


async def test_a_server_that_is_down() -> None:
    with pytest.raises(pgqrs.UnavailableError):
        store = await pgqrs.connect("postgresql://postgres@127.0.0.1:1/postgres?connect_timeout=2")
        await pgqrs.admin(store).queues()


async def test_without_the_schema_it_says_what_to_call(postgres_url: str) -> None:
    store = await pgqrs.connect(postgres_url.rsplit("/", 1)[0] + "/template1")
    with pytest.raises(pgqrs.SchemaMissingError) as missing:
        await store.enqueue("tasks", 1)
    assert "pgqrs.admin(store).install()" in str(missing.value)


def test_errors_pickle() -> None:
    error = pgqrs.LeaseLostError("lost", id=7)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.id) == (pgqrs.LeaseLostError, "lost", 7)
