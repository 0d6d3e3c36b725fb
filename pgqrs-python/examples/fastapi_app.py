"""A web application whose requests enqueue in the transaction that writes their own rows."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI

import pgqrs

URL = os.environ.get("DATABASE_URL", "postgresql://localhost/app")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.jobs = await pgqrs.connect(URL)
    async with asyncpg.create_pool(URL) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/signup")
async def signup(mail: str) -> dict[str, int]:
    async with app.state.pool.acquire() as connection, connection.transaction():
        await connection.execute("insert into users (mail) values ($1)", mail)
        job = await app.state.jobs.enqueue_in(connection, "mails", {"to": mail})
    return {"job": job}
