"""A small run of the soak; ``benchmarks/soak.py`` has the large one."""

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"


def test_counts_add_up_after_kills_exceptions_and_cancellations(url: str) -> None:
    options = ["--messages", "6000", "--kill-every", "0.5", "--timeout", "100"]
    soak = subprocess.run([sys.executable, SOAK, url, *options], capture_output=True, text=True)
    assert soak.returncode == 0, soak.stdout + soak.stderr
