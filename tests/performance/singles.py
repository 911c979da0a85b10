"""Singles: how fast the worker stores readings that arrive one to a message, as JSON with 24 channels.

Held against aio-pika consumers that take the same messages from the same quorum queue with the same
prefetch and the same event loop, and do nothing but ack: each message by itself, or every hundredth for
all before it (the stricter one).
"""

from collections.abc import Iterator

from bed import Bed
from benchmark import Size, main
from ceilings import Acks, consumer_rate
from drain import drain_rate
from esp_ingest.settings import IngestSettings
from report import Figure
from workload import json_messages, live_readings, publish


def singles(bed: Bed, size: Size) -> Iterator[Figure]:
    """Measure the worker and both consumers in turn."""
    deployment = bed.deploy(bed.engines[0])
    messages = json_messages(live_readings(size.singles), 1)
    prefetch: int = IngestSettings.model_fields["prefetch"].default
    worker = deployment.ingest("worker")
    measured: list[float] = []
    ceilings: dict[Acks, list[float]] = {"each": [], "multiple": []}
    for _ in range(size.rounds):
        for acks, rates in ceilings.items():
            deployment.forget()
            publish(bed.rabbitmq.url, messages)
            rates.append(consumer_rate(bed.rabbitmq.url_for("ingest"), len(messages), prefetch, acks))
        measured.append(drain_rate(deployment, worker, messages, len(messages)))
    name, unit = "one reading a message", "messages/s"
    yield Figure(name, measured, unit, ceilings["each"], 0.6, note="aio-pika acking each")
    yield Figure(name, measured, unit, ceilings["multiple"], 0.6, note="aio-pika acking by 100")


if __name__ == "__main__":
    main(singles)
