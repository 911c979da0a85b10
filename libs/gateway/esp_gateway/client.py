"""The gateway client: store readings durably, then deliver them however long the link is down."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, TypeVar

import structlog
from esp_common.errors import BrokerUnavailable, EspError, Nacked, Unroutable

from esp_gateway.encoding import Encoding, Reading, decode, encode, to_json
from esp_gateway.errors import LinkRefused
from esp_gateway.link import Link
from esp_gateway.spool import Bookmark, Spool, Spooled

# Two pages in flight: the broker works on one while the last confirms of the other arrive.
LANES: Final = 2
PAGE_BATCHES: Final = 500
PAGE_BYTES: Final = 8 << 20
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 15.0
GRACE_S: Final = 5.0

_UP: Final = "up"
_STOPPED: Final = "down: stopped"

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


class _Offer(NamedTuple):
    readings: Sequence[Reading]
    bookmark: Bookmark | None
    kept: asyncio.Future[None]


class GatewayClient:
    """Store-and-forward publisher for one gateway; use it as an async context manager.

    `url`: the broker, with the gateway's credentials (`link.with_credentials`). `spool`: the gateway's open
    spool, which the caller closes. `receipt`: a file to which every confirmed reading is appended as a line
    of JSON before it leaves the spool; after a crash a reading may be listed twice, but none is missing.
    Readings that the broker does not accept (link down, queue full, credential refused) stay in the spool and
    are retried with growing pauses, one message at a time until one succeeds.
    """

    def __init__(
        self,
        url: str,
        gateway_id: str,
        spool: Spool,
        *,
        encoding: Encoding = Encoding.JSON,
        receipt: Path | None = None,
    ) -> None:
        self.gateway_id = gateway_id
        self.confirmed = 0
        self.link = "down: never connected"
        self.refusal: LinkRefused | None = None
        self._spool = spool
        self._encoding = encoding
        self._link = Link(url, gateway_id)
        self._receipt = receipt.open("ab") if receipt else None
        # Only this thread uses SQLite, so that commits do not block the event loop.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"spool-{gateway_id}")
        self._offers: list[_Offer] = []
        self._offered = asyncio.Event()
        self._news = asyncio.Event()
        self._delivered: list[Spooled] = []
        self._settling = asyncio.Event()
        self._gate = asyncio.Event()
        self._gate.set()
        self._progress = asyncio.Event()
        self._stopping = False
        self._lanes: list[asyncio.Task[None]] = []
        self._work: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "GatewayClient":
        """Start publishing, beginning with the contents of the spool."""
        await self._on_disk(self._spool.rewind)
        await self._link.start()
        self._work = asyncio.create_task(self._run(), name=f"gateway-{self.gateway_id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop publishing; unconfirmed readings stay in the spool after GRACE_S."""
        await self.close()

    async def offer(self, readings: Sequence[Reading], bookmark: Bookmark | None = None) -> None:
        """Store `readings` durably; when this returns they are on disk and will be delivered.

        They are published in the given groups, split only where a message would become too large: offer many
        at once for throughput, one alone for latency. `bookmark` is stored with them, all or nothing. Raises
        SpoolFull (retry after `settled`) or ReadingTooLarge.
        """
        self._check_running()
        kept = asyncio.get_running_loop().create_future()
        self._offers.append(_Offer(readings, bookmark, kept))
        self._offered.set()
        await kept

    async def drained(self, give_up_after_s: float | None = None) -> None:
        """Return once the spool is empty.

        Raises LinkRefused as soon as the broker refuses this gateway, and BrokerUnavailable when
        nothing has been confirmed for `give_up_after_s`; the readings stay in the spool.
        """
        while True:
            seen = self.confirmed
            if await self._on_disk(self._spool.is_empty):
                return
            await self._confirmed_beyond(seen, give_up_after_s)

    async def settled(self, give_up_after_s: float | None = None) -> None:
        """Return once more of the spool has been confirmed; raises like `drained`."""
        await self._confirmed_beyond(self.confirmed, give_up_after_s)

    async def _confirmed_beyond(self, seen: int, give_up_after_s: float | None) -> None:
        try:
            async with asyncio.timeout(give_up_after_s):
                while self.confirmed == seen:
                    self._check_running()
                    if self.refusal:
                        raise self.refusal
                    await self._progress.wait()
        except TimeoutError:
            raise BrokerUnavailable(
                f"nothing confirmed for {give_up_after_s:g} s, link {self.link}",
                fix="what is not confirmed stays in the spool and goes out next time",
            ) from None

    async def close(self) -> None:
        """Stop publishing and record confirmed readings; idempotent."""
        if self._work is None:
            return
        self._stopping = True
        self._news.set()
        if self._lanes:
            await asyncio.wait(self._lanes, timeout=GRACE_S)
        self._work.cancel()
        with suppress(asyncio.CancelledError, EspError):
            await self._work
        self._work = None
        await self._settle()
        await self._note_link(_STOPPED)
        with suppress(Exception):  # the link may be broken in any way by now
            await asyncio.wait_for(self._link.close(), GRACE_S)
        self._thread.shutdown()
        if self._receipt:
            self._receipt.close()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_offers())
                group.create_task(self._settle_deliveries())
                self._lanes = [group.create_task(self._lane()) for _ in range(LANES)]
        except ExceptionGroup as group:
            raise _first(group) from group
        finally:
            for offer in self._offers:
                offer.kept.cancel()
            self._tell_progress()

    async def _keep_offers(self) -> None:
        """Write offers to the spool; those that arrive during a write share the next commit."""
        while True:
            await self._offered.wait()
            self._offered.clear()
            offers, self._offers = self._offers, []
            outcomes = await self._on_disk(self._keep, offers)
            for offer, outcome in zip(offers, outcomes, strict=True):
                if offer.kept.done():
                    continue  # the caller has stopped waiting
                if outcome is None:
                    offer.kept.set_result(None)
                else:
                    offer.kept.set_exception(outcome)
            self._news.set()

    async def _lane(self) -> None:
        """Publish the spool page by page."""
        while not self._stopping:
            self._news.clear()
            page = await self._on_disk(self._spool.take, PAGE_BATCHES, PAGE_BYTES)
            if not page:
                await self._news.wait()
                continue
            async with asyncio.TaskGroup() as group:
                for batch in page:
                    group.create_task(self._deliver(batch))

    async def _settle_deliveries(self) -> None:
        while True:
            await self._settling.wait()
            self._settling.clear()
            await self._settle()

    async def _deliver(self, batch: Spooled) -> None:
        """Publish `batch` until the broker has confirmed it."""
        while True:
            await self._gate.wait()
            if await self._attempt(batch) is None:
                break
            if self._gate.is_set():
                await self._probe(batch)
                break
        self._delivered.append(batch)
        self._settling.set()

    async def _probe(self, batch: Spooled) -> None:
        """Retry `batch` alone, with growing pauses, while all others wait for its success."""
        self._gate.clear()
        pause_s = FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            failure = await self._attempt(batch)
            if failure is None:
                break
            if isinstance(failure, Nacked):
                # A channel may keep refusing after the queue has room again, or has another leader.
                await self._link.reopen()
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        self._gate.set()

    async def _attempt(self, batch: Spooled) -> EspError | None:
        """Publish `batch` once; return the reason of a failure, None on success."""
        try:
            await self._link.publish(batch)
        except LinkRefused as error:
            await self._note_refusal(error)
            return error
        except (Nacked, Unroutable) as error:
            await self._note_link(f"holding: {error.detail}")
            return error
        except BrokerUnavailable as error:
            await self._note_link(f"down: {error.detail}")
            return error
        self.refusal = None
        await self._note_link(_UP)
        return None

    async def _note_refusal(self, error: LinkRefused) -> None:
        await self._note_link(f"refused: {error.detail}")
        self.refusal = error
        self._tell_progress()

    def _tell_progress(self) -> None:
        """Wake all current waiters; later ones wait for the next change."""
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()

    async def _note_link(self, link: str) -> None:
        if link == self.link:
            return
        self.link = link
        level = logging.INFO if link in (_UP, _STOPPED) else logging.WARNING
        _log.log(level, "gateway.link", gateway_id=self.gateway_id, link=link)
        await self._on_disk(self._spool.note_link, link)

    async def _on_disk(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    async def _settle(self) -> None:
        """Write the receipt of delivered batches, then delete them."""
        delivered, self._delivered = self._delivered, []
        if not delivered:
            return
        await self._on_disk(self._forget, delivered)
        self.confirmed += sum(batch.readings for batch in delivered)
        self._tell_progress()

    def _forget(self, delivered: Sequence[Spooled]) -> None:
        if self._receipt:
            for batch in delivered:
                for reading in decode(batch.content_type, batch.body):
                    self._receipt.write(to_json({"gateway_id": self.gateway_id, "reading": reading}) + b"\n")
            self._receipt.flush()
        self._spool.confirm(delivered)

    def _keep(self, offers: Sequence[_Offer]) -> list[Exception | None]:
        """Append all offers in one commit; return an error or None for each."""
        try:
            batches = [batch for offer in offers for batch in encode(offer.readings, self._encoding)]
            self._spool.append(batches, [offer.bookmark for offer in offers if offer.bookmark])
        except (EspError, TypeError, ValueError) as error:
            if len(offers) == 1:
                return [error]
            return [outcome for offer in offers for outcome in self._keep([offer])]
        return [None] * len(offers)

    def _check_running(self) -> None:
        if self._work is None or self._work.done():
            cause = self._work.exception() if self._work and not self._work.cancelled() else None
            raise cause or RuntimeError("the gateway client is not running")


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
