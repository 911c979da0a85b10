"""The training process ends with the worker that started it."""

import subprocess
import sys
from pathlib import Path

import psutil
from waiting import until

PARENT = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from esp_diagnostics.monitoring.training import prepare_process

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=prepare_process) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


def started_and_killed(script: Path) -> psutil.Process:
    """Return the training process of a parent that was killed."""
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    return child


async def test_training_process_ends_with_a_killed_worker(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    child = started_and_killed(script)

    def ended() -> bool:
        return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE

    await until(ended, "the training process has ended")
