"""The process that handles what the web application enqueues: an effect and its message's end are one
commit, so that a crash between the two cannot be."""

import asyncio

import asyncpg
from fastapi_app import URL

import pgqrs


async def main() -> None:
    jobs = await pgqrs.connect(URL)
    async with asyncpg.create_pool(URL) as pool:

        async def welcome(msg: pgqrs.Message) -> None:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(
                    "update users set welcomed = true where mail = $1", msg.payload["to"]
                )
                await jobs.archive_in(connection, msg)

        print(await pgqrs.Worker(jobs, "mails", welcome, concurrency=10).run())


if __name__ == "__main__":
    asyncio.run(main())
