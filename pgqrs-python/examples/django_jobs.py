"""Jobs of a Django application: ``sign_up`` belongs into a view, ``work`` into a command of manage.py."""

from functools import lru_cache

from django.conf import settings
from django.db import connection, transaction

import pgqrs.sync


@lru_cache
def jobs() -> pgqrs.sync.Store:
    """Connects on first use: a web server's processes must not share what was there before a fork."""
    return pgqrs.sync.connect(settings.PGQRS_URL)


def sign_up(mail: str) -> int:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("insert into users (mail) values (%s)", [mail])
        return jobs().enqueue_in(connection, "mails", {"to": mail})


def welcome(msg: pgqrs.Message) -> None:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("update users set welcomed = true where mail = %s", [msg.payload["to"]])
        jobs().archive_in(connection, msg)


def work() -> None:
    print(pgqrs.sync.Worker(jobs(), "mails", welcome, concurrency=4).run())
