"""The benchmarks work; what they measure is `make bench`'s to say."""

import subprocess
import sys
from pathlib import Path

import pytest
from engines import engines

FIGURES = (
    "Arrow of 1,000",
    "JSON of 100",
    "one reading a message",
    "posts of one reading",
    "flood",
    "audit records",
    "a verified request",
    "logins",
    "a pump's day",
    "trend of",
    "dashboards",
    "judging a reading",
    "reading → told live",
    "alert told live",
    "told live beside a backlog",
)
TIMESCALE_FIGURES = ("columnstore: saved", "columnstore: trend of", "columnstore: fleet")


@pytest.mark.timeout(1200)
def test_quick_run_of_every_benchmark_prints_its_figures():
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("run.py"), "--quick"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    expected = FIGURES + (TIMESCALE_FIGURES if "timescale" in engines() else ())
    assert [figure for figure in expected if figure not in done.stdout] == []
