"""RabbitMQ: publish with confirms, ask and answer, consume fast, and consume conveniently."""

from esp_common.messaging.consumer import AckTracker, Delivery, LeanConsumer
from esp_common.messaging.publisher import Publisher, Requester

__all__ = ["AckTracker", "Delivery", "LeanConsumer", "Publisher", "Requester"]
