"""Docstrings, the README's code, and the types."""

import ast
import asyncio
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import pgqrs

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
GUIDE = ROOT.parent / "docs" / "python.md"
MODULES = [f"pgqrs.{module.name}" for module in pkgutil.iter_modules(pgqrs.__path__)]


@pytest.mark.parametrize("name", ["pgqrs", *(m for m in MODULES if m != "pgqrs._native")])
def test_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_docstrings_that_run() -> None:
    found = doctest.DocTestFinder().find(pgqrs.Worker)
    assert any(test.examples for test in found)


def test_the_readmes_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, object] = {}

    async def run() -> None:
        for block in blocks:
            code = compile(block, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)
            if inspect.iscoroutine(result):
                await result

    asyncio.run(run())


def test_every_public_thing_has_a_docstring() -> None:
    for name in pgqrs.__all__:
        thing = getattr(pgqrs, name)
        if isinstance(thing, (type, types.FunctionType)) and name != "Handler":
            assert inspect.getdoc(thing), name


@pytest.mark.parametrize(
    "command",
    [
        ["mypy", "--strict", "-p", "pgqrs"],
        # asyncpg and Django have no types of their own.
        ["mypy", "--strict", "--ignore-missing-imports", *map(str, EXAMPLES.glob("*.py"))],
        ["mypy.stubtest", "pgqrs._native"],
    ],
)
def test_types(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    run = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "MYPY_CACHE_DIR": str(folder / "mypy")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_example(url: str) -> None:
    example = [sys.executable, str(EXAMPLES / "quickstart.py"), url]
    run = subprocess.run(example, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "handled=100, failed=2, dead=1" in run.stdout
    assert "dead: {'to': 'nobody'} ValueError: no mail address" in run.stdout


@pytest.mark.parametrize("name", ["fastapi_app", "fastapi_worker", "django_jobs"])
def test_the_guide_shows_the_examples(name: str) -> None:
    code = (EXAMPLES / f"{name}.py").read_text().split('"""\n\n', 1)[1]
    assert f"```python\n{code}```" in GUIDE.read_text()


FASTAPI = """
import asyncio, asyncpg, os, signal, fastapi_app, fastapi_worker, pgqrs

async def main():
    connection = await asyncpg.connect(fastapi_app.URL)
    await connection.execute("create table users (mail text unique, welcomed bool)")
    store = await pgqrs.connect(fastapi_app.URL)
    await store.create_queue("mails")
    async with fastapi_app.lifespan(fastapi_app.app):
        await fastapi_app.signup("ada")
        try:
            await fastapi_app.signup("ada")
        except asyncpg.UniqueViolationError:
            pass
    working = asyncio.ensure_future(fastapi_worker.main())
    while not (await pgqrs.admin(store).metrics("mails"))[0].archived:
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    await working
    assert (await pgqrs.admin(store).metrics("mails"))[0].live == 0
    print(await connection.fetch("select mail, welcomed from users"))
    await connection.close()

asyncio.run(main())
"""

DJANGO = """
import os, signal, threading, time, pgqrs, pgqrs.sync
from urllib.parse import parse_qs, urlsplit
from django.conf import settings

url = os.environ["DATABASE_URL"]
at, options = urlsplit(url), parse_qs(urlsplit(url).query)
database = {
    "ENGINE": "django.db.backends.postgresql", "NAME": at.path[1:], "USER": at.username,
    "PASSWORD": at.password or "", "HOST": at.hostname or options.get("host", [""])[0],
    "PORT": at.port or "",
}
settings.configure(DATABASES={"default": database}, PGQRS_URL=url)
import django_jobs
from django.db import IntegrityError, connection

with connection.cursor() as cursor:
    cursor.execute("create table users (mail text unique, welcomed bool)")
jobs = django_jobs.jobs()
jobs.create_queue("mails")
django_jobs.sign_up("ada")
try:
    django_jobs.sign_up("ada")
except IntegrityError:
    pass

def stop():
    while not pgqrs.sync.admin(jobs).metrics("mails")[0].archived:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=stop).start()
django_jobs.work()
assert pgqrs.sync.admin(jobs).metrics("mails")[0].live == 0
with connection.cursor() as cursor:
    cursor.execute("select mail, welcomed from users")
    print(cursor.fetchall())
"""


@pytest.mark.parametrize("program", [FASTAPI, DJANGO], ids=["fastapi", "django"])
def test_the_web_examples(program: str, own_postgres_url: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DATABASE_URL": own_postgres_url},
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert "handled=1" in run.stdout and "ada" in run.stdout and "True" in run.stdout
