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
        ["mypy", "--strict", str(ROOT / "examples" / "quickstart.py")],
        ["mypy.stubtest", "pgqrs._native"],
    ],
)
def test_types(command: list[str], tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env={**os.environ, "MYPY_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_example(url: str) -> None:
    example = [sys.executable, str(ROOT / "examples" / "quickstart.py"), url]
    run = subprocess.run(example, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "handled=100, failed=2, dead=1" in run.stdout
    assert "dead: {'to': 'nobody'} ValueError: no mail address" in run.stdout
