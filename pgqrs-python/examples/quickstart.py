"""A queue at work in a SQLite file: ``python quickstart.py [sqlite:///jobs.db]``."""

import asyncio
import sys

import pgqrs


async def main(url: str) -> None:
    store = await pgqrs.connect(url)
    await pgqrs.admin(store).install()
    await store.create_queue("mails", retry=pgqrs.Backoff.fixed(0.1), max_attempts=3)
    await store.enqueue_many("mails", [{"to": f"user-{n}@example.org"} for n in range(100)])
    await store.enqueue("mails", {"to": "nobody"})

    async def handler(msg: pgqrs.Message) -> None:
        if "@" not in msg.payload["to"]:
            raise ValueError("no mail address")

    worker = pgqrs.Worker(store, "mails", handler, concurrency=10)
    run = asyncio.ensure_future(worker.run())
    admin = pgqrs.admin(store)
    while (await admin.metrics("mails"))[0].live:
        await asyncio.sleep(0.05)
    worker.stop()
    print(await run)
    for letter in await admin.dead_letters("mails"):
        print("dead:", letter.payload, str(letter.last_error).splitlines()[-1])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:] or ["sqlite:///jobs.db"]))
