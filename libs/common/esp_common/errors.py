"""Errors by cause, each with a stable code and an id a user can quote; handled once, at the edge.

The HTTP edge turns them into RFC 9457 problems (`esp_common.http`), the command line into one line
and an exit code (`run_cli`).
"""

import sys
from typing import Any, ClassVar, Final
from uuid import uuid4

EXIT_OTHER: Final = 1
EXIT_INVALID: Final = 2
EXIT_UNAVAILABLE: Final = 3
EXIT_NOT_FOUND: Final = 4


class EspError(Exception):
    """Something the platform refuses or cannot do.

    `detail` says what and where, `fix` what to do about it; `error_id` ties the answer to the log.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    exit_code: ClassVar[int] = EXIT_OTHER

    def __init__(self, detail: str, *, fix: str | None = None, error_id: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fix = fix
        self.error_id = error_id or uuid4().hex

    def extensions(self) -> dict[str, Any]:
        """Return what a problem document adds to the standard members."""
        return {}

    def line(self) -> str:
        """Return the error as the one line a command prints."""
        parts = [self.title.lower(), self.detail, *([self.fix] if self.fix else [])]
        return f"error: {' — '.join(parts)} ({self.error_id})"


class InvalidInput(EspError):
    """The request is well formed but says something that cannot be."""

    code, status, title, exit_code = "invalid-input", 422, "Invalid input", EXIT_INVALID

    def __init__(
        self,
        detail: str,
        *,
        fields: list[dict[str, Any]] | None = None,
        fix: str | None = None,
        error_id: str | None = None,
    ) -> None:
        super().__init__(detail, fix=fix, error_id=error_id)
        self.fields = fields

    def extensions(self) -> dict[str, Any]:
        """Return `errors`: where in the request, and what is wrong there."""
        return {"errors": self.fields} if self.fields else {}


class NotFound(EspError):
    """What was asked for does not exist."""

    code, status, title, exit_code = "not-found", 404, "Not found", EXIT_NOT_FOUND


class Conflict(EspError):
    """The request contradicts what is already there."""

    code, status, title, exit_code = "conflict", 409, "Conflict", EXIT_INVALID


class Unauthenticated(EspError):
    """No credential, or one that is not (or no longer) valid."""

    code, status, title = "unauthenticated", 401, "Credential missing or invalid"


class Forbidden(EspError):
    """The credential is good but does not permit this."""

    code, status, title = "forbidden", 403, "Not permitted"


class TooLarge(EspError):
    """The body is larger than the limit."""

    code, status, title, exit_code = "too-large", 413, "Body too large", EXIT_INVALID


class UnsupportedMediaType(EspError):
    """The body is of a type nobody here reads."""

    code, status, title, exit_code = "unsupported-media-type", 415, "Unsupported media type", EXIT_INVALID


class Unavailable(EspError):
    """A part this needs is away; the same request will do after a while."""

    code, status, title, exit_code = "unavailable", 503, "Temporarily unavailable", EXIT_UNAVAILABLE

    def __init__(
        self, detail: str, *, retry_after_s: int = 5, fix: str | None = None, error_id: str | None = None
    ) -> None:
        super().__init__(detail, fix=fix, error_id=error_id)
        self.retry_after_s = retry_after_s


class RateLimited(EspError):
    """This caller has made as many requests as one may; the same request will do after a while."""

    code, status, title, exit_code = "rate-limited", 429, "Too many requests", EXIT_UNAVAILABLE

    def __init__(
        self, detail: str, *, retry_after_s: int, fix: str | None = None, error_id: str | None = None
    ) -> None:
        super().__init__(detail, fix=fix, error_id=error_id)
        self.retry_after_s = retry_after_s


class BrokerUnavailable(Unavailable):
    """The broker is away, or went away before it confirmed: publish again."""

    code, title = "broker-unavailable", "Broker unavailable"


class PublishRefused(BrokerUnavailable):
    """The broker closed the channel over a message in flight (no permission, no such exchange): maybe this.

    Publish again alone to know whether it was this one.
    """

    code, title = "publish-refused", "Message refused by the broker for good"


class Unroutable(Unavailable):
    """The broker returned a mandatory message: no queue is bound for it."""

    code, title = "unroutable", "Message unroutable"


class Nacked(Unavailable):
    """The broker refused to keep the message (queue full or failing): publish again later."""

    code, title = "nacked", "Message refused by the broker"


def run_cli(app: Any) -> None:
    """Run a typer `app`; an EspError becomes one line on stderr and its exit code."""
    try:
        app()
    except EspError as error:
        print(error.line(), file=sys.stderr)
        sys.exit(error.exit_code)
