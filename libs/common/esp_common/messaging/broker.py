"""FastStream brokers: for messages each of which is a piece of work.

Use one where a message takes milliseconds to work on and is acknowledged by itself: the accepted batches
that diagnostics consumes. Each is decoded, counted, timed and traced on its way. Use `LeanConsumer` where
many small messages become durable together and are acknowledged in bulk (ingest's readings, the audit log):
a task and a chain of middleware for each would cost more than its work.

Not imported by `esp_common.messaging`, since FastStream takes most of a second to load.
"""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import aiormq
from aio_pika import RobustQueue
from faststream import BaseMiddleware, PublishCommand
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.opentelemetry import RabbitTelemetryMiddleware
from faststream.rabbit.prometheus import RabbitPrometheusMiddleware
from faststream.rabbit.response import RabbitPublishCommand
from prometheus_client import REGISTRY

from esp_common import topology
from esp_common.amqp_nodes import nodes_of
from esp_common.settings import ServiceSettings


class _Persistent(BaseMiddleware[Any, Any]):
    """Makes every message survive a restart of the broker, which FastStream leaves to each call."""

    async def publish_scope(
        self, call_next: Callable[[PublishCommand], Awaitable[Any]], cmd: PublishCommand
    ) -> Any:
        if isinstance(cmd, RabbitPublishCommand):
            cmd.message_options["persist"] = True
        return await call_next(cmd)


def make_broker(settings: ServiceSettings, service: str, *, prefetch: int = 100) -> RabbitBroker:
    """Return a broker with confirms, returned messages raised, bounded prefetch, metrics and traces.

    It connects when started, reconnects by itself, and declares the service's queues each time. Subscribers
    take `subscription(queue)` and `consume_channel(prefetch)`, so that they do not share a channel with
    publishing; `prefetch` bounds those that do not.
    """

    async def redeclare(connection: Any) -> None:
        async with connection.channel() as channel:
            await topology.declare(channel, service)

    return RabbitBroker(
        nodes_of(settings.amqp_url)[0],  # FastStream takes one address
        default_channel=Channel(publisher_confirms=True, on_return_raises=True, prefetch_count=prefetch),
        fail_fast=False,
        reconnect_interval=1.0,
        on_reconnected=[redeclare],
        app_id=f"esp-{service}",
        middlewares=[
            RabbitPrometheusMiddleware(registry=REGISTRY, app_name=service, metrics_prefix="esp_broker"),
            RabbitTelemetryMiddleware(),
            _Persistent,
        ],
    )


def consume_channel(prefetch: int) -> Channel:
    """Return a channel for subscribers, apart from the one that publishes."""
    return Channel(prefetch_count=prefetch)


def subscription(name: str) -> dict[str, Any]:
    """Return the `queue` and `exchange` arguments of a subscriber to a queue of the topology.

    With both, a queue that is deleted under the subscriber comes back with its binding.
    """
    queue = next(queue for queue in topology.QUEUES if queue.name == name)
    binding = next(binding for binding in topology.BINDINGS if binding.destination == name)
    kind = next(exchange.kind for exchange in topology.EXCHANGES if exchange.name == binding.source)
    return {
        "queue": RabbitQueue(
            name, durable=True, routing_key=binding.routing_key, arguments=cast("Any", dict(queue.arguments))
        ),
        "exchange": RabbitExchange(binding.source, ExchangeType(kind), durable=True, declare=False),
    }


async def consumers_alive(broker: RabbitBroker) -> bool:
    """Whether the broker has every subscriber's consumer, not only an open socket."""
    for subscriber in broker.subscribers:
        queue = cast("RobustQueue | None", getattr(subscriber, "_queue_obj", None))
        if queue is None or queue.channel.is_closed:
            return False
        channel = cast("aiormq.Channel", await queue.channel.get_underlay_channel())
        if getattr(subscriber, "_consumer_tag", None) not in channel.consumers:
            return False
    return True
