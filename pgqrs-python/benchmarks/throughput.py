"""Side by side on one Postgres server: pgqrs in Python, PgQueuer, asyncpg, and pgqrs in Rust.

    pip install -r requirements.txt
    cargo build --release -p pgqrs-bench --example python_peer
    python throughput.py postgresql://localhost/postgres --rust ../../target/release/examples/python_peer

Each contender runs in a process and a database of its own, which is made and dropped on the server;
contenders take turns, and medians count. Payloads have 200 bytes.

loop          a no-op async handler, one process, a backlog. For PgQueuer from the start of its run to
              the last call of the handler; for pgqrs until everything is archived and the worker
              has stopped.
enqueue-many  1000 messages per call, from 4 tasks.
enqueue-one   100 tasks, each of which awaits its own single enqueue; asyncpg inserts a row per call
              into a table with nothing but a key and the payload, from a pool of 10 connections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit, urlunsplit

PAYLOAD = "x" * 198
QUEUE = "bench"
TASKS = 100
BATCH = 1_000
CALLERS = 4

Options = argparse.Namespace


async def prepare(url: str, options: Options) -> None:
    """Installs pgqrs, and enqueues the backlog of a loop."""
    import pgqrs

    store = await pgqrs.connect(url)
    await pgqrs.admin(store).install()
    await store.create_queue(QUEUE)
    if options.case == "loop":
        for _ in range(options.messages // BATCH):
            await store.enqueue_many(QUEUE, [PAYLOAD] * BATCH)


async def pgqrs_loop(url: str, options: Options) -> float:
    import pgqrs

    left = options.messages

    async def handler(msg: pgqrs.Message) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            worker.stop()

    store = await pgqrs.connect(url)
    worker = pgqrs.Worker(store, QUEUE, handler, concurrency=options.concurrency)
    began = time.perf_counter()
    report = await worker.run()
    took = time.perf_counter() - began
    assert report.handled == options.messages, report
    return options.messages / took


async def pgqueuer_loop(url: str, options: Options) -> float:
    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgPoolDriver
    from pgqueuer.queries import Queries

    pool = await asyncpg.create_pool(url, min_size=5, max_size=20)
    driver = AsyncpgPoolDriver(pool)
    await Queries(driver).install()
    for _ in range(options.messages // BATCH):
        await Queries(driver).enqueue([QUEUE] * BATCH, [PAYLOAD.encode()] * BATCH, [0] * BATCH)
    await pool.execute("analyze")
    left, ended = options.messages, 0.0
    managers = [PgQueuer(driver) for _ in range(options.pgqueuer_managers)]

    async def handler(job: object) -> None:
        nonlocal left, ended
        left -= 1
        if left == 0:
            ended = time.perf_counter()
            for manager in managers:
                manager.shutdown.set()

    for manager in managers:
        manager.entrypoint(QUEUE)(handler)
    began = time.perf_counter()
    await asyncio.gather(*(m.run(batch_size=options.pgqueuer_batch) for m in managers))
    assert left == 0, left
    return options.messages / (ended - began)


async def pgqrs_enqueue_many(url: str, options: Options) -> float:
    import pgqrs

    store = await pgqrs.connect(url)
    calls = options.messages // BATCH // CALLERS

    async def caller() -> None:
        payloads = [PAYLOAD] * BATCH
        for _ in range(calls):
            await store.enqueue_many(QUEUE, payloads)

    return calls * BATCH * CALLERS / await timed(caller, CALLERS)


async def pgqrs_enqueue_one(url: str, options: Options) -> float:
    import pgqrs

    producer = await (await pgqrs.connect(url)).producer(QUEUE)
    calls = options.messages // TASKS

    async def caller() -> None:
        for _ in range(calls):
            await producer.enqueue(PAYLOAD)

    return calls * TASKS / await timed(caller, TASKS)


async def asyncpg_enqueue_one(url: str, options: Options) -> float:
    import asyncpg

    pool = await asyncpg.create_pool(url, min_size=10, max_size=10)
    await pool.execute("create table jobs (id bigserial primary key, payload text not null)")
    calls = options.messages // TASKS
    insert, payload = "insert into jobs (payload) values ($1) returning id", json.dumps(PAYLOAD)

    async def caller() -> None:
        for _ in range(calls):
            await pool.fetchval(insert, payload)

    return calls * TASKS / await timed(caller, TASKS)


async def timed(caller: Callable[[], Awaitable[None]], tasks: int) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(tasks)))
    return time.perf_counter() - began


def rust(url: str, options: Options) -> float:
    work = {
        "loop": ["loop", options.messages, options.concurrency],
        "enqueue-many": ["enqueue", options.messages, BATCH, CALLERS],
    }[options.case]
    command = [options.rust, url, *(str(word) for word in work)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


CASES: dict[str, dict[str, Callable[[str, Options], Awaitable[float]] | None]] = {
    "loop": {"pgqrs": pgqrs_loop, "pgqueuer": pgqueuer_loop, "pgqrs in Rust": None},
    "enqueue-many": {"pgqrs": pgqrs_enqueue_many, "pgqrs in Rust": None},
    "enqueue-one": {"pgqrs": pgqrs_enqueue_one, "asyncpg": asyncpg_enqueue_one},
}


async def one(options: Options) -> float:
    """Runs one contender in a database of its own."""
    import asyncpg

    name = f"bench_{time.time_ns()}"
    url = urlunsplit(urlsplit(options.url)._replace(path=f"/{name}"))
    server = await asyncpg.connect(options.url)
    await server.execute(f"create database {name}")
    try:
        contender = CASES[options.case][options.one]
        if options.one.startswith("pgqrs"):
            await prepare(url, options)
        await server.execute("checkpoint")
        return await contender(url, options) if contender else rust(url, options)
    finally:
        await server.execute(f"drop database {name} with (force)")
        await server.close()


def compare(options: Options, case: str) -> None:
    """Runs the contenders of a case in turns."""
    contenders = [it for it in CASES[case] if options.rust or it != "pgqrs in Rust"]
    contenders = [it for it in contenders if it in options.only] if options.only else contenders
    rates: dict[str, list[float]] = {contender: [] for contender in contenders}
    for _ in range(options.rounds):
        for contender in contenders:
            command = [sys.executable, __file__, *sys.argv[1:], "--case", case, "--one", contender]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                sys.exit(f"{contender}: {run.stderr}")
            rates[contender].append(float(run.stdout.split()[-1]))
    print(f"\n{case}, messages/s")
    medians = {contender: statistics.median(figures) for contender, figures in rates.items()}
    first = next(iter(medians.values()))
    for contender, figures in rates.items():
        rounds = " ".join(f"{figure:,.0f}" for figure in figures)
        ratio = first / medians[contender]
        print(f"  {contender:<14} {medians[contender]:>9,.0f}   pgqrs/this {ratio:.2f}   ({rounds})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="a server on which databases may be made and dropped")
    parser.add_argument("--rust", help="the program python_peer; without it Rust is left out")
    parser.add_argument("--case", choices=CASES, action="append", dest="cases")
    parser.add_argument("--only", action="append", help="only this contender; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=500, help="handlers of pgqrs at once")
    parser.add_argument("--pgqueuer-batch", type=int, default=500)
    parser.add_argument("--pgqueuer-managers", type=int, default=1)
    parser.add_argument("--uvloop", action="store_true", help="for all in Python, instead of asyncio's")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        options.case = options.cases[-1]
        if options.uvloop:
            import uvloop

            print(uvloop.run(one(options)))
        else:
            print(asyncio.run(one(options)))
        return
    for case in options.cases or CASES:
        compare(options, case)


if __name__ == "__main__":
    main()
