"""TimescaleDB's WASM build, which runs on every machine."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from esp_platform.databases import ROLES

WASM = Path(__file__).parents[1] / "wasm"


Run = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def make_wasm() -> Iterator[Callable[[Callable[..., object]], Run]]:
    """Make a database by `migrate`; what is returned runs a script and gives its last statement's rows."""
    if not (WASM / "node_modules").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=WASM, check=True, capture_output=True)
    with subprocess.Popen(["node", "run.mjs"], cwd=WASM, text=True, stdin=PIPE, stdout=PIPE) as process:
        requests, answers = process.stdin, process.stdout
        assert requests
        assert answers

        def run(script: str) -> list[dict[str, Any]]:
            print(json.dumps(script), file=requests, flush=True)
            answer = json.loads(answers.readline())
            assert "error" not in answer, answer["error"]
            rows: list[dict[str, Any]] = answer["rows"]
            return rows

        def make(migrate: Callable[..., object]) -> Run:
            run("".join(f"CREATE ROLE {role};" for role in ROLES))
            run("CREATE EXTENSION timescaledb")
            with redirect_stdout(StringIO()) as schema:
                migrate("postgresql:///", "timescale", sql=True)
            run(schema.getvalue())
            return run

        yield make
        requests.close()
