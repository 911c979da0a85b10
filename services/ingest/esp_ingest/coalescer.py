"""Posts of readings become confirmed messages: many small ones of a gateway share one.

Each post is answered after the broker confirmed the message that carries it. Readings that screening
refuses are published too: the worker, the only writer of quarantine, keeps them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Final, NamedTuple, Protocol

import structlog
from esp_common import topology
from esp_common.contracts.readings import JUDGED_HEADER
from esp_common.errors import EspError, Unavailable
from esp_common.messaging import Publisher

from esp_ingest.domain.decode import JSON_TYPE, Body, decode
from esp_ingest.domain.readings import Quarantined, Reason
from esp_ingest.domain.registry import Registry
from esp_ingest.domain.screen import MAX_REFUSALS_PER_BODY, Rejected, Screened, screen
from esp_ingest.settings import MIB, IngestSettings

log = structlog.get_logger()

OFF_LOOP_BYTES: Final = 64 * 1024
"""Bodies above this take milliseconds to decode: they go to a thread."""

COALESCED_BYTES: Final = 128 * 1024
"""A message of posts is sent at this size: larger ones would hold up the loop, and gain nothing."""


MOST_BRACKETS: Final = 400
"""A body with more is not coalesced: its nesting, sound in itself, could be too deep for a shared message."""


class MalformedBody(EspError):
    """The body is not JSON or Arrow, though it says so: nothing of it was taken."""

    code: ClassVar[str] = "malformed-body"
    status: ClassVar[int] = 400
    title: ClassVar[str] = "Malformed body"


class Assets(Protocol):
    """The registry that readings are screened against."""

    @property
    def current(self) -> Registry:
        """The registry as last loaded."""
        ...

    @property
    def loaded(self) -> bool:
        """Whether it was loaded at all."""
        ...

    async def refresh(self) -> None:
        """Load it again, unless that was done a moment ago."""
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one post's readings: how many were accepted, and what was not.

    `summary`: the quarantine row of the refusals that are not in `rejected`.
    """

    accepted: int
    rejected: Sequence[Rejected] = ()
    summary: Quarantined | None = None

    @property
    def rejected_total(self) -> int:
        """How many readings and channels were refused, listed or not."""
        return len(self.rejected) + (sum(self.summary.refusals) if self.summary else 0)


Answer = Callable[[Receipt | Exception], None]
"""Told once what became of a post."""


class _Post(NamedTuple):
    """A post in company: `elements` is what it adds to the array that they share."""

    body: Body
    elements: bytes
    answer: Answer


@dataclass(slots=True)
class _Batch:
    """Posts of one gateway waiting for each other."""

    timer: asyncio.TimerHandle
    posts: list[_Post] = field(default_factory=list)
    size: int = 0
    due: bool = False


class Coalescer:
    """Takes posts, answers each when its readings are safe with the broker.

    A gateway's posts wait `coalesce_ms` for each other, and longer while a message of that gateway awaits its
    confirm: the busier the broker, the more posts share a message. `coalesce_requests` send it at once.
    At most `max_pending_requests` posts and `max_pending_mib` of bodies wait at a time; a post beyond
    raises `Unavailable`.
    """

    def __init__(
        self,
        publisher: Publisher,
        assets: Assets,
        settings: IngestSettings,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._publisher = publisher
        self._assets = assets
        self._settings = settings
        self._now = now
        self._waiting: dict[str, _Batch] = {}
        self._unconfirmed: Counter[str] = Counter()
        self._sending: set[asyncio.Task[None]] = set()
        self._requests = 0
        self._bytes = 0

    async def post(self, body: Body) -> Receipt:
        """Take the readings of `body`; with a message id they go as a message of their own.

        Raises `MalformedBody`; and `Unavailable` or `Unroutable` when it cannot be said that they are safe.
        """
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        if self.join(body, partial(_fulfil, receipt)):
            return await receipt
        self._admit(body)
        try:
            return await self._send_alone(body)
        finally:
            self._release(1, len(body.content))

    def join(self, body: Body, answer: Answer) -> bool:
        """Have a body share a message, and `answer` called when its readings are safe or are known not to be.

        Returns whether it does: one that is large, not JSON or has a message id has to go alone. Raises
        `Unavailable` as `post` does.
        """
        elements = self._elements_to_share(body)
        if elements is None:
            return False
        self._admit(body)
        batch = self._waiting.get(body.gateway_id) or self._begin(body.gateway_id)
        batch.posts.append(_Post(body, elements, answer))
        batch.size += len(body.content)
        if len(batch.posts) >= self._settings.coalesce_requests or batch.size >= COALESCED_BYTES:
            self._flush(body.gateway_id)
        return True

    async def close(self) -> None:
        """Send what waits, and wait for what is under way."""
        for gateway_id in list(self._waiting):
            self._flush(gateway_id)
        while self._sending:
            await asyncio.gather(*self._sending, return_exceptions=True)

    def _elements_to_share(self, body: Body) -> bytes | None:
        small = len(body.content) <= self._settings.coalesce_body_kib * 1024
        if not small or body.message_id is not None or body.content_type != JSON_TYPE:
            return None
        return _elements(body.content)

    def _admit(self, body: Body) -> None:
        size = self._bytes + len(body.content)
        settings = self._settings
        if self._requests >= settings.max_pending_requests or size > settings.max_pending_mib * MIB:
            raise Unavailable("too many posts await the broker's confirm", retry_after_s=1)
        self._requests += 1
        self._bytes = size

    def _release(self, requests: int, size: int) -> None:
        self._requests -= requests
        self._bytes -= size

    def _begin(self, gateway_id: str) -> _Batch:
        delay_s = self._settings.coalesce_ms / 1000
        timer = asyncio.get_running_loop().call_later(delay_s, self._on_due, gateway_id)
        batch = self._waiting[gateway_id] = _Batch(timer)
        return batch

    def _on_due(self, gateway_id: str) -> None:
        if gateway_id in self._unconfirmed:
            self._waiting[gateway_id].due = True
        else:
            self._flush(gateway_id)

    def _flush(self, gateway_id: str) -> None:
        batch = self._waiting.pop(gateway_id)
        batch.timer.cancel()
        self._unconfirmed[gateway_id] += 1
        task = asyncio.create_task(self._send_together(batch))
        self._sending.add(task)
        task.add_done_callback(lambda _: self._on_sent(gateway_id, task))

    def _on_sent(self, gateway_id: str, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._unconfirmed[gateway_id] -= 1
        if not self._unconfirmed[gateway_id]:
            del self._unconfirmed[gateway_id]
            waiting = self._waiting.get(gateway_id)
            if waiting and waiting.due:
                self._flush(gateway_id)

    async def _send_together(self, batch: _Batch) -> None:
        """Publish the posts as one JSON array and give each its receipt, or the error that befell them."""
        posts = batch.posts
        outcomes: Sequence[Receipt | Exception]
        try:
            outcomes = await self._receipts(posts)
        except EspError as error:
            outcomes = [error] * len(posts)
        except Exception as error:
            log.exception("posts.failed", posts=len(posts))
            outcomes = [error] * len(posts)
        self._release(len(posts), batch.size)
        for post, outcome in zip(posts, outcomes, strict=True):
            post.answer(outcome)

    async def _receipts(self, posts: Sequence[_Post]) -> "list[Receipt | EspError]":
        now_us = self._now_us()
        outcomes = _outcomes(await self._screen([post.body for post in posts], now_us))
        await asyncio.gather(*(self._confirmed(body, now_us) for body in _messages(posts, outcomes)))
        return outcomes

    async def _send_alone(self, body: Body) -> Receipt:
        now_us = self._now_us()
        (outcome,) = _outcomes(await self._screen([body], now_us))
        if isinstance(outcome, EspError):
            raise outcome
        await self._confirmed(body, now_us)
        return outcome

    async def _screen(self, bodies: Sequence[Body], now_us: int) -> Screened:
        if not self._assets.loaded:
            raise Unavailable("the assets are not loaded yet")
        decoded = (
            await asyncio.to_thread(decode, bodies)
            if len(bodies[0].content) > OFF_LOOP_BYTES
            else decode(bodies)
        )
        registry = self._assets.current
        screened = screen(decoded, registry, now_us)
        if screened.has_unknown:
            await self._assets.refresh()
            if self._assets.current is not registry:
                screened = screen(decoded, self._assets.current, now_us)
        return screened

    def _now_us(self) -> int:
        return int(self._now() * 1_000_000)

    async def _confirmed(self, message: Body, judged_us: int) -> None:
        """Publish a message with the time it was judged at: the worker judges it by the same clock."""
        await self._publisher.publish(
            topology.INGEST,
            topology.telemetry_key(message.gateway_id),
            message.content,
            content_type=message.content_type or JSON_TYPE,
            message_id=message.message_id,
            headers={JUDGED_HEADER: str(judged_us)},
        )


def _elements(content: bytes) -> bytes | None:
    """Return what a JSON body adds to an array of readings, or None if that takes more than cutting it.

    Cutting is right for every body that is valid JSON; whether it is, decoding has to say.
    """
    text = content.strip()
    if text.count(b"[") + text.count(b"{") > MOST_BRACKETS:
        return None
    # With a backslash "readings" could be spelt otherwise.
    if text[:1] == b"{" and text[-1:] == b"}" and b'"readings"' not in text and b"\\" not in text:
        return text
    if text[:1] == b"[" and text[-1:] == b"]":
        return text[1:-1].strip()
    return None


def _messages(posts: Sequence[_Post], outcomes: "Sequence[Receipt | EspError]") -> Iterator[Body]:
    """Yield the messages that carry the readings of `posts`.

    A message holds at most as many refusals as get rows of their own, so that each answered `error_id` names
    one; a post that has more goes alone, as it is: the worker keeps the same summary that was answered.
    """
    elements: list[bytes] = []
    refusals = 0
    for post, outcome in zip(posts, outcomes, strict=True):
        if not isinstance(outcome, Receipt) or not post.elements:
            continue
        if outcome.summary is not None:
            yield post.body
            continue
        if refusals + len(outcome.rejected) > MAX_REFUSALS_PER_BODY:
            yield _joined(elements, post.body.gateway_id)
            elements, refusals = [], 0
        elements.append(post.elements)
        refusals += len(outcome.rejected)
    if elements:
        yield _joined(elements, posts[0].body.gateway_id)


def _joined(elements: Sequence[bytes], gateway_id: str) -> Body:
    return Body(b"[%b]" % b",".join(elements), JSON_TYPE, gateway_id)


def _outcomes(screened: Screened) -> list[Receipt | EspError]:
    """Return what each body comes to: its receipt, or that it is malformed."""
    rejected: dict[int, list[Rejected]] = {}
    for refusal in screened.rejected:
        rejected.setdefault(refusal.body, []).append(refusal)
    counts = screened.counts.tolist()
    if not rejected:
        return [Receipt(count) for count in counts]
    summaries = screened.summaries
    return [_outcome(count, rejected.get(body, []), summaries.get(body)) for body, count in enumerate(counts)]


def _outcome(count: int, rejected: list[Rejected], summary: Quarantined | None) -> Receipt | EspError:
    for refusal in rejected:
        if refusal.row.reason is Reason.UNDECODABLE:
            return MalformedBody(refusal.row.detail, error_id=str(refusal.row.id))
    whole = sum(refusal.row.channel is None for refusal in rejected)
    if summary is not None:
        whole += summary.refusals.readings
    return Receipt(count - whole, rejected, summary)


def _fulfil(receipt: asyncio.Future[Receipt], outcome: Receipt | Exception) -> None:
    if receipt.done():
        return
    if isinstance(outcome, Receipt):
        receipt.set_result(outcome)
    else:
        receipt.set_exception(outcome)
