"""Enqueue and archive in a transaction on a Postgres connection of the caller's own.

The native half says which statements to run; what runs them depends on the connection, by the names of
its classes: no driver is imported that the caller does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from . import _native
from ._native import CallerCall

#: The names of the columns, and the rows.
Answer = tuple[list[str], list[list[Any]]]

#: SQLSTATE of a missing table or schema.
_MISSING = ("42P01", "3F000")


class _Driver(NamedTuple):
    placeholders: str
    is_async: bool
    execute: Callable[[Any, str, list[Any]], Any]


def run(connection: Any, store: _native.Store, call: CallerCall) -> list[int]:
    """Makes the call on a connection whose calls block."""
    driver = _driver(connection, is_async=False)
    sql, rest = call.next(driver.placeholders, None)
    while sql is not None:
        try:
            answer: Answer = driver.execute(connection, sql, rest)
        except Exception as error:
            _explain(store, error)
            raise
        sql, rest = call.next(driver.placeholders, answer)
    return rest


async def run_async(connection: Any, store: _native.Store, call: CallerCall) -> list[int]:
    """Makes the call on a connection whose calls are awaited."""
    driver = _driver(connection, is_async=True)
    sql, rest = call.next(driver.placeholders, None)
    while sql is not None:
        try:
            answer: Answer = await driver.execute(connection, sql, rest)
        except Exception as error:
            _explain(store, error)
            raise
        sql, rest = call.next(driver.placeholders, answer)
    return rest


def _driver(connection: Any, is_async: bool) -> _Driver:
    names = (f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(connection).__mro__)
    driver = next((_DRIVERS[name] for name in names if name in _DRIVERS), None)
    kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
    if driver is None:
        raise TypeError(
            f"{kind} is no connection that pgqrs knows: it takes those of asyncpg, psycopg 3, "
            "SQLAlchemy (connections and sessions) and Django"
        )
    if driver.is_async != is_async:
        face = "pgqrs.connect" if driver.is_async else "pgqrs.sync.connect"
        raise TypeError(f"for a {kind} use a store that was opened with {face}")
    return driver


def _explain(store: _native.Store, error: Exception) -> None:
    """Raises what a driver's error means for the store, if that is known."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if code in _MISSING:
        try:
            _native.schema_missing(store)
        except Exception as missing:
            raise missing from error


def _named(parameters: list[Any]) -> dict[str, Any]:
    return {f"p{number}": value for number, value in enumerate(parameters, 1)}


def _outside() -> RuntimeError:
    return RuntimeError(
        "the connection is not in a transaction: begin one, so that the message comes or goes with "
        "what else you write (to enqueue by itself use store.enqueue)"
    )


async def _asyncpg(connection: Any, sql: str, parameters: list[Any]) -> Answer:
    if not connection.is_in_transaction():
        raise _outside()
    rows = await connection.fetch(sql, *parameters)
    return (list(rows[0].keys()) if rows else []), _lists(rows)


async def _psycopg_async(connection: Any, sql: str, parameters: list[Any]) -> Answer:
    from psycopg.rows import tuple_row

    _check_psycopg(connection)
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(sql, _named(parameters))
        return _columns(cursor), _lists(await cursor.fetchall())


def _psycopg(connection: Any, sql: str, parameters: list[Any]) -> Answer:
    from psycopg.rows import tuple_row

    _check_psycopg(connection)
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(sql, _named(parameters))
        return _columns(cursor), _lists(cursor.fetchall())


def _check_psycopg(connection: Any) -> None:
    # Without autocommit the first statement begins one.
    if connection.autocommit and connection.info.transaction_status.name == "IDLE":
        raise _outside()


async def _sqlalchemy_async(connection: Any, sql: str, parameters: list[Any]) -> Answer:
    from sqlalchemy import text

    result = await connection.execute(text(sql), _named(parameters))
    return list(result.keys()), _lists(result.fetchall())


def _sqlalchemy(connection: Any, sql: str, parameters: list[Any]) -> Answer:
    from sqlalchemy import text

    result = connection.execute(text(sql), _named(parameters))
    return list(result.keys()), _lists(result.fetchall())


def _django(connection: Any, sql: str, parameters: list[Any]) -> Answer:
    if not connection.in_atomic_block and connection.get_autocommit():
        raise _outside()
    with connection.cursor() as cursor:
        cursor.execute(sql, _named(parameters))
        return _columns(cursor), _lists(cursor.fetchall())


def _columns(cursor: Any) -> list[str]:
    return [column[0] for column in cursor.description]


def _lists(rows: Iterable[Iterable[Any]]) -> list[list[Any]]:
    return [list(row) for row in rows]


_DRIVERS = {
    "asyncpg.Connection": _Driver("numeric", True, _asyncpg),
    "asyncpg.PoolConnectionProxy": _Driver("numeric", True, _asyncpg),
    "psycopg.AsyncConnection": _Driver("pyformat", True, _psycopg_async),
    "psycopg.Connection": _Driver("pyformat", False, _psycopg),
    "sqlalchemy.AsyncConnection": _Driver("named", True, _sqlalchemy_async),
    "sqlalchemy.AsyncSession": _Driver("named", True, _sqlalchemy_async),
    "sqlalchemy.async_scoped_session": _Driver("named", True, _sqlalchemy_async),
    "sqlalchemy.Connection": _Driver("named", False, _sqlalchemy),
    "sqlalchemy.Session": _Driver("named", False, _sqlalchemy),
    "sqlalchemy.scoped_session": _Driver("named", False, _sqlalchemy),
    "django.ConnectionProxy": _Driver("pyformat", False, _django),
    "django.BaseDatabaseWrapper": _Driver("pyformat", False, _django),
}
