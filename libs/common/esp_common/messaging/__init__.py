"""RabbitMQ: publish with confirms, ask and answer, consume fast, and consume conveniently."""

from esp_common.messaging.consumer import AckTracker, LeanConsumer
from esp_common.messaging.delivery import Delivery
from esp_common.messaging.listener import EventListener
from esp_common.messaging.publisher import Publisher, Requester

__all__ = ["AckTracker", "Delivery", "EventListener", "LeanConsumer", "Publisher", "Requester"]
