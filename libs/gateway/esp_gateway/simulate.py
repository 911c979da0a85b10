"""The simulated field in real time: its gateways report as real ones do, each through its own spool."""

import asyncio
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog
from esp_common.errors import InvalidInput

from esp_gateway.accounts import Account
from esp_gateway.client import GatewayClient
from esp_gateway.encoding import Encoding
from esp_gateway.errors import SpoolFull
from esp_gateway.simulator.faults import Fault
from esp_gateway.simulator.field import Field, GatewayBatch
from esp_gateway.spool import Spool, WhenFull

LONGEST_CATCH_UP: Final = timedelta(minutes=5)
"""Maximum age of readings reported after a pause (a suspended machine); older ones are dropped."""

HISTORY_AT_ONCE: Final = timedelta(minutes=30)
"""Span of history that a new field reports in one step."""

_log = structlog.get_logger(__name__)


def inject(field: Field, text: str) -> None:
    """Inject the fault given as PUMP:NAME[:severity[:hours ago]]; raise InvalidInput."""
    pump_id, name, severity, hours = (*text.split(":", 3), "", "", "")[:4]
    try:
        onset = datetime.now(UTC) - timedelta(hours=float(hours or 0))
        field.inject(pump_id, Fault(name), onset, float(severity or 1))
    except (KeyError, ValueError) as error:
        names = ", ".join(fault.value for fault in Fault)
        raise InvalidInput(
            f"--fault {text}: {error.args[0]}",
            fix=f"write PUMP:NAME[:severity of 0 to 1[:hours ago]], NAME one of {names}",
        ) from error


class LiveField:
    """Step `field` with the clock and offer its gateways' readings, until `stop`.

    `accounts` has one for every gateway of the field; their spools are in `folder`. If there are none yet,
    the field is new and first reports the last `history`.
    """

    def __init__(
        self,
        field: Field,
        accounts: Sequence[Account],
        folder: Path,
        *,
        encoding: Encoding,
        spool_limit: int,
        when_full: WhenFull,
        history: timedelta = timedelta(0),
    ) -> None:
        self._field = field
        self._accounts = _accounts_of(field.assets(), accounts)
        self._folder = folder
        self._pause_s = min(1.0, field.interval_s)
        self._encoding = encoding
        self._spool_limit = spool_limit
        self._when_full = when_full
        known = any(self._spool_of(account).exists() for account in self._accounts)
        self._history = timedelta(0) if known else history
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Make `run` finish current work and return."""
        self._stop.set()

    async def run(self) -> None:
        """Report until stopped; a failing spool ends it."""
        async with AsyncExitStack() as stack:
            clients = {account.gateway_id: await self._start(stack, account) for account in self._accounts}
            # An earlier process may have reported the last scan: begin with the next one.
            last = datetime.now(UTC) + timedelta(seconds=self._field.interval_s)
            if self._history:
                last = await self._report_history(clients)
            while not await self._stopped():
                now = datetime.now(UTC)
                if now <= last:
                    continue  # the clock was set back: wait until it passes the last reported time
                if now - last > LONGEST_CATCH_UP:
                    _log.warning("field.gap", seconds=round((now - last).total_seconds()))
                    await asyncio.to_thread(self._field.step, now - LONGEST_CATCH_UP)
                await self._report(clients, now)
                last = now

    async def _report_history(self, clients: Mapping[str, GatewayClient]) -> datetime:
        """Report the history from its beginning, and return its end."""
        now = datetime.now(UTC)
        reported = now - self._history
        await self._report(clients, reported)
        while reported < now and not self._stop.is_set():
            reported = min(reported + HISTORY_AT_ONCE, now)
            await self._report(clients, reported)
        return reported

    async def _report(self, clients: Mapping[str, GatewayClient], until: datetime) -> None:
        batches = await asyncio.to_thread(self._field.step, until)
        await asyncio.gather(*(_offer(clients[batch.gateway_id], batch) for batch in batches))

    async def _start(self, stack: AsyncExitStack, account: Account) -> GatewayClient:
        path = self._spool_of(account)
        spool = Spool(path, account.gateway_id, max_bytes=self._spool_limit, when_full=self._when_full)
        stack.callback(spool.close)
        client = GatewayClient(account.url, account.gateway_id, spool, encoding=self._encoding)
        return await stack.enter_async_context(client)

    def _spool_of(self, account: Account) -> Path:
        return self._folder / f"{account.gateway_id}.spool"

    async def _stopped(self) -> bool:
        """Wait for the next step or for `stop`; return whether it was `stop`."""
        try:
            await asyncio.wait_for(self._stop.wait(), self._pause_s)
        except TimeoutError:
            return False
        return True


async def run_until_told(live: LiveField) -> None:
    """Run `live` until SIGTERM or Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, live.stop)
    await live.run()


async def _offer(client: GatewayClient, batch: GatewayBatch) -> None:
    try:
        await client.offer(batch.readings)
    except SpoolFull as error:
        # A field cannot wait: readings that do not fit are dropped and counted.
        _log.warning(
            "field.lost", gateway_id=batch.gateway_id, readings=len(batch.readings), why=error.detail
        )


def _accounts_of(assets: Mapping[str, Any], accounts: Sequence[Account]) -> list[Account]:
    wanted = {gateway["gateway_id"] for gateway in assets["gateways"]}
    if missing := wanted - {account.gateway_id for account in accounts}:
        raise InvalidInput(
            f"no key for {', '.join(sorted(missing))}",
            fix="simulate fewer --pumps, or add them to --gateways-file",
        )
    return [account for account in accounts if account.gateway_id in wanted]
