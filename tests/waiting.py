"""Waiting for what happens elsewhere, with a deadline; and running something beside a test."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest


async def until(holds: Callable[[], Any], what: str = "what was awaited", timeout_s: float = 30) -> Any:
    """Return what `holds()`, awaited if it can be, gives once that is true; or fail with `what`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = holds()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(0.02)


@asynccontextmanager
async def beside(*parts: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Run parts beside the body."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
