"""How the batch consumer settles messages."""

from typing import Any

import pytest
from esp_common.messaging import Delivery, LeanConsumer
from pamqp import commands
from pamqp.header import ContentHeader


class Recorder(LeanConsumer):
    """Keeps the frames that would go to the broker."""

    def __init__(self) -> None:
        super().__init__("amqp://127.0.0.1/", "queue", prefetch=1, on_message=lambda _: None)
        self.frames: list[Any] = []

    async def _send(self, *frames: Any) -> None:
        self.frames += frames


@pytest.mark.parametrize("requeue", [True, False])
async def test_poison_is_rejected_since_a_nack_does_not_count_from_rabbitmq_4_3(requeue: bool) -> None:
    consumer = Recorder()
    consumer.reject(Delivery(commands.Basic.Deliver("tag", 1), ContentHeader(), b"poison"), requeue=requeue)
    await consumer.stop()
    (frame,) = consumer.frames
    assert type(frame) is commands.Basic.Reject
    assert (frame.delivery_tag, frame.requeue) == (1, requeue)
