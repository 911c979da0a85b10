"""Generate a service's AsyncAPI 3 document from the topology and the catalogue of messages."""

from collections.abc import Iterable
from typing import Any, Final

from esp_common import __version__, topology
from esp_common.contracts.messages import BROADCASTS, MESSAGES, Message

_HEADERS: Final[dict[str, Any]] = {
    "type": "object",
    "description": "CloudEvents 1.0 in AMQP's binary mode, and the W3C trace context.",
    "properties": {
        **{
            f"cloudEvents_{name}": {"type": "string"}
            for name in ("specversion", "id", "type", "source", "subject")
        },
        "cloudEvents_time": {"type": "string", "format": "date-time"},
        "traceparent": {"type": "string"},
    },
    "required": [f"cloudEvents_{name}" for name in ("id", "source", "specversion", "type")],
}
_KINDS: Final = {exchange.name: exchange.kind for exchange in topology.EXCHANGES}
_BINDING_VERSION: Final = "0.3.0"


def document(service: str) -> dict[str, Any]:
    """Return the AsyncAPI document of `service`: what it receives and sends, hot paths included."""
    sent = [message for message in MESSAGES if message.sender in (service, "*")]
    queues = [queue for queue in topology.QUEUES if queue.service == service]
    received = {queue.name: _messages_of(queue.name) for queue in queues}
    heard = [
        message
        for message in MESSAGES
        if message.exchange == topology.EVENTS and any(map(message.matches, BROADCASTS[service]))
    ]
    channels = {queue.name: _queue_channel(queue, received[queue.name]) for queue in queues}
    channels["events.heard"] = _broadcast_channel(service, heard)
    channels |= {f"to.{message.name}": _exchange_channel(message) for message in sent}
    operations = {
        f"receive.{name}": _operation("receive", name, messages)
        for name, messages in received.items()
        if messages
    }
    operations["receive.events.heard"] = _operation("receive", "events.heard", heard)
    operations |= {
        f"send.{message.name}": _operation("send", f"to.{message.name}", [message]) for message in sent
    }
    used = [*sent, *heard, *(message for messages in received.values() for message in messages)]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"ESP {service}",
            "version": __version__,
            "description": f"Messages that the {service} service receives and sends over RabbitMQ.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "127.0.0.1:5672",
                "pathname": "/",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "RabbitMQ 3.10 to 4.x; its address is the setting `amqp_url`.",
            }
        },
        "channels": dict(sorted(channels.items())),
        "operations": dict(sorted(operations.items())),
        "components": {"messages": _components(used), "schemas": {"CloudEvent": _HEADERS}},
    }


def _messages_of(queue: str) -> list[Message]:
    """Return the messages that the bindings of a queue bring to it."""
    bindings = [binding for binding in topology.BINDINGS if binding.destination == queue]
    found = []
    for message in MESSAGES:
        for source, key, *_ in bindings:
            by_pump = source == topology.BY_PUMP and message.exchange == topology.TELEMETRY
            if by_pump or (message.exchange == source and message.matches(key)):
                found.append(message)
                break
    return found


def _queue_channel(queue: topology.Queue, messages: Iterable[Message]) -> dict[str, Any]:
    bound = [
        f"{binding.source} {binding.routing_key}".strip()
        for binding in topology.BINDINGS
        if binding.destination == queue.name
    ]
    return {
        "address": queue.name,
        "description": f"Bound to: {', '.join(bound)}.",
        "messages": _references(messages),
        "bindings": {
            "amqp": {
                "is": "queue",
                "queue": {"name": queue.name, "durable": True, "exclusive": False, "autoDelete": False},
                "bindingVersion": _BINDING_VERSION,
            }
        },
        "x-arguments": dict(queue.arguments),
    }


def _broadcast_channel(service: str, messages: Iterable[Message]) -> dict[str, Any]:
    return {
        "address": None,
        "description": (
            "A queue of each process, which the broker deletes with the connection. Bound to: "
            + ", ".join(f"{topology.EVENTS} {pattern}" for pattern in BROADCASTS[service])
            + "."
        ),
        "messages": _references(messages),
        "bindings": {
            "amqp": {
                "is": "queue",
                "queue": {
                    "name": f"{service}.events-<random>",
                    "durable": False,
                    "exclusive": True,
                    "autoDelete": True,
                },
                "bindingVersion": _BINDING_VERSION,
            }
        },
    }


def _exchange_channel(message: Message) -> dict[str, Any]:
    return {
        "address": message.key.replace("<", "{").replace(">", "}"),
        "description": f"Exchange {message.exchange}.",
        "messages": _references([message]),
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {
                    "name": message.exchange,
                    "type": _KINDS[message.exchange],
                    "durable": True,
                    "autoDelete": False,
                },
                "bindingVersion": _BINDING_VERSION,
            }
        },
        **_parameters(message.key),
    }


def _parameters(key: str) -> dict[str, Any]:
    names = [part[1:-1] for part in key.split(".") if part.startswith("<")]
    return {"parameters": {name: {} for name in names}} if names else {}


def _operation(action: str, channel: str, messages: Iterable[Message]) -> dict[str, Any]:
    messages = list(messages)
    operation: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": messages[0].summary if len(messages) == 1 else f"{len(messages)} kinds of messages.",
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message.name}"} for message in messages],
    }
    if any(message.reply is not None for message in messages):
        operation["reply"] = {
            "address": {"location": "$message.header#/replyTo", "description": "Direct reply-to."}
        }
    return operation


def _references(messages: Iterable[Message]) -> dict[str, Any]:
    return {message.name: {"$ref": f"#/components/messages/{message.name}"} for message in messages}


def _components(messages: Iterable[Message]) -> dict[str, Any]:
    components: dict[str, Any] = {}
    for message in sorted(messages, key=lambda each: each.name):
        components[message.name] = {
            "name": message.name,
            "title": message.name,
            "summary": message.summary,
            "contentType": message.content_type,
            **({"headers": {"$ref": "#/components/schemas/CloudEvent"}} if message.is_event else {}),
            "payload": dict(message.payload),
        }
        if message.reply is not None:
            components[message.name]["x-reply"] = dict(message.reply)
    return components
