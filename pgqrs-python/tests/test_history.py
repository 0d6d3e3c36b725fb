"""What several processes did that were killed with -9, checked by the Rust kit's history checker."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import asyncio_timeout

import pgqrs

CHECKER = "PGQRS_CHECK_HISTORY"
MESSAGES = int(os.environ.get("PGQRS_CHAOS_MESSAGES", "3000"))


async def test_the_history_of_killed_processes_is_clean(
    store: pgqrs.Store, url: str, tmp_path: Path
) -> None:
    checker = os.environ.get(CHECKER)
    if not checker:
        pytest.skip(f"{CHECKER} does not name the program (cargo xtask test does)")
    queue, kills = f"history-{os.getpid()}-{random.randrange(10**6)}", 8
    await store.create_queue(queue)
    admin = pgqrs.admin(store)
    logs: list[Path] = []

    def actor(role: str) -> "subprocess.Popen[bytes]":
        logs.append(tmp_path / f"{len(logs)}.jsonl")
        script = [sys.executable, str(Path(__file__).parent / "actor.py")]
        return subprocess.Popen([*script, url, queue, str(logs[-1]), role])

    async def ended(processes: "list[subprocess.Popen[bytes]]") -> list[int]:
        return [await asyncio.to_thread(process.wait, 60) for process in processes]

    producers = [actor(f"produce:{MESSAGES // 2}") for _ in range(2)]
    consumers = [actor(role) for role in ("work", "consume", "work", "consume")]
    try:
        async with asyncio_timeout(300):
            for kill in range(1, kills + 1):
                while (await admin.metrics(queue))[0].archived < MESSAGES * kill // (2 * kills):
                    await asyncio.sleep(0.01)
                victim = consumers.pop(0)
                victim.kill()
                await ended([victim])
                consumers.append(actor(random.choice(["work", "consume"])))
            assert await ended(producers) == [0, 0]
            for process in consumers:
                process.send_signal(signal.SIGTERM)
            # One that is just starting is ended by the signal itself.
            assert set(await ended(consumers)) <= {0, -signal.SIGTERM}
            assert await ended([actor("drain")]) == [0]
    finally:
        for process in producers + consumers:
            process.kill()
    check = [checker, url, queue, *(str(log) for log in logs if log.exists())]
    checked = subprocess.run(check, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert f"{MESSAGES} enqueued" in checked.stdout and "+ 0 live" in checked.stdout
