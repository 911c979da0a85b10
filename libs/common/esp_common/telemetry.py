"""Logs as JSON lines without secrets, traces if a collector is configured, and metrics."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import stamina
import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from esp_common import vault
from esp_common.settings import ServiceSettings

_MASK: Final = "***"
_SECRET_NAME: Final = re.compile(r"passw|secret|token|authorization|credential|api_?key|^key$", re.IGNORECASE)
_SECRET_TEXT: Final = re.compile(
    r"(?P<url>://[^\s:/@]*:)[^\s/]+(?=@)"
    r"|(?P<live>esp_live_)[\w-]+"
    r"|(?P<token>\beyJ)[\w-]+\.[\w-]+(?:\.[\w-]*)?"
    r"|(?P<bearer>\bbearer\s+)\S+"
    r"|(?P<pair>(?:password|secret|token|api[_-]?key|authorization)[\"']?\s*[=:]\s*[\"']?)"
    r"(?:bearer\s+)?[^\s,;&\"']+",
    re.IGNORECASE,
)
_NOISY: Final = {
    "aiormq": logging.ERROR,
    "aio_pika": logging.ERROR,
    "httpx": logging.WARNING,
    "apscheduler": logging.WARNING,
    "azure": logging.WARNING,
    "uvicorn": logging.WARNING,
    "uvicorn.access": logging.WARNING,
}
"""Libraries that log every connection, request or run, which our own events cover."""


def mask(text: str) -> str:
    """Return `text` with the passwords in URLs, keys and tokens masked."""
    return _SECRET_TEXT.sub(lambda found: f"{found[found.lastgroup or 0]}{_MASK}", text)


def mask_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Structlog processor: mask secrets in every field, by the field's name and in its text."""
    return {name: _MASK if _SECRET_NAME.search(name) else _masked(value) for name, value in event.items()}


def _masked(value: Any) -> Any:
    match value:
        case str():
            return mask(value)
        case dict():
            return mask_secrets(None, "", value)
        case list() | tuple():
            return [_masked(item) for item in value]
        case BaseException():
            return mask(repr(value))
    return value


def _trace_ids(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = format(context.trace_id, "032x")
    return event


def configure(service: str, role: str, settings: ServiceSettings) -> None:
    """Set up logs and traces of this process, including library logs; call it once at the start."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _trace_ids,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                mask_secrets,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for library, level in _NOISY.items():
        logging.getLogger(library).setLevel(level)
    stamina.instrumentation.set_on_retry_hooks([])  # one line per attempt, where one for all is enough
    logging.captureWarnings(True)
    structlog.contextvars.bind_contextvars(service=service, role=role)
    vault.say_again()
    if settings.otel_endpoint:
        _export_traces(service, role, settings.otel_endpoint)


def _export_traces(service: str, role: str, endpoint: str) -> None:
    provider = TracerProvider(
        resource=Resource.create({"service.name": f"esp-{service}", "service.instance.role": role})
    )
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
