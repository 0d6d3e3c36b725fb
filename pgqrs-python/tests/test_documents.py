"""The documents' lines as they stand."""

from pathlib import Path

import pytest

import pgqrs


async def test_the_documents_lines(url: str, store: pgqrs.Store) -> None:
    await store.create_queue("tasks")
    await store.enqueue_many("tasks", range(10))
    seen = []

    async def handler(msg: pgqrs.Message) -> bool:
        seen.append(msg.payload)
        return True

    store = await pgqrs.connect(url)
    await pgqrs.consume(store, "tasks", handler)
    consumer = await store.consumer("tasks")
    messages = await pgqrs.dequeue(consumer, batch_size=10)
    msg = messages[0]
    await pgqrs.archive(consumer, msg); await consumer.archive(msg.id)
    msg = messages[1]
    await pgqrs.archive(consumer, msg)
    msg = messages[2]
    await consumer.archive(msg.id)
    msg = messages[3]
    await pgqrs.delete(consumer, msg)
    msg = messages[4]
    await consumer.delete(msg.id)
    msg = messages[5]
    await consumer.extend_vt(msg.id, 30); await pgqrs.extend_vt(consumer, msg, 30)
    await consumer.shutdown()
    async with store.consume_iter("tasks") as iterator:
        async for msg in iterator:
            await iterator.archive(msg.id)
            if msg.payload == 9:
                break
    assert seen == [0]
    [metrics] = await pgqrs.admin(store).metrics("tasks")
    assert (metrics.archived, metrics.live) == (8, 0)
    await pgqrs.admin(store).delete_queue("tasks")


async def test_sqlite_urls_are_relative_with_three_slashes_and_absolute_with_four(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await pgqrs.connect("sqlite:///jobs.db")
    await pgqrs.connect(f"sqlite:///{tmp_path}/other.db")
    assert (tmp_path / "jobs.db").exists() and (tmp_path / "other.db").exists()
