"""Errors by cause, each with a stable code and an id that users can quote; handled once, at the edge.

The HTTP edge turns them into RFC 9457 problems (`esp_common.http`), the command line into one line and an
exit code (`run_cli`).
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, Self
from uuid import uuid4

EXIT_OTHER: Final = 1
EXIT_INVALID: Final = 2
EXIT_UNAVAILABLE: Final = 3
EXIT_NOT_FOUND: Final = 4


class EspError(Exception):
    """Base class of the platform's errors.

    `detail` says what is wrong and where, `fix` how to correct it; `error_id` links the response to the log.
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
        """Return extension members of the problem document."""
        return {}

    def line(self) -> str:
        """Return the error as one line for a command line."""
        parts = [self.title.lower(), self.detail, *([self.fix] if self.fix else [])]
        return f"error: {' — '.join(parts)} ({self.error_id})"


@dataclass(frozen=True, slots=True)
class InputProblem:
    """One problem of an input: where it is, what is wrong, and how to fix it."""

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.fix}"


class InvalidInput(EspError):
    """The request is well formed but its content is not valid."""

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

    @classmethod
    def of(cls, problems: Sequence[InputProblem]) -> Self:
        """Return the error that reports all `problems` together, the first of them in words."""
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return cls(f"{problems[0]}{more}", fields=[asdict(problem) for problem in problems])

    def extensions(self) -> dict[str, Any]:
        """Return `errors`: the location and cause of each problem in the request."""
        return {"errors": self.fields} if self.fields else {}


class NotFound(EspError):
    """The requested object does not exist."""

    code, status, title, exit_code = "not-found", 404, "Not found", EXIT_NOT_FOUND


class Conflict(EspError):
    """The request conflicts with the current state."""

    code, status, title, exit_code = "conflict", 409, "Conflict", EXIT_INVALID


class Unauthenticated(EspError):
    """The credential is missing, invalid or expired."""

    code, status, title = "unauthenticated", 401, "Credential missing or invalid"


class Forbidden(EspError):
    """The credential is valid but lacks the permission."""

    code, status, title = "forbidden", 403, "Not permitted"


class TooLarge(EspError):
    """The body exceeds the size limit."""

    code, status, title, exit_code = "too-large", 413, "Body too large", EXIT_INVALID


class UnsupportedMediaType(EspError):
    """The media type of the body is not supported."""

    code, status, title, exit_code = "unsupported-media-type", 415, "Unsupported media type", EXIT_INVALID


class Unavailable(EspError):
    """A required component is unavailable; a retry may succeed."""

    code, status, title, exit_code = "unavailable", 503, "Temporarily unavailable", EXIT_UNAVAILABLE

    def __init__(
        self, detail: str, *, retry_after_s: int = 5, fix: str | None = None, error_id: str | None = None
    ) -> None:
        super().__init__(detail, fix=fix, error_id=error_id)
        self.retry_after_s = retry_after_s


class RateLimited(EspError):
    """The caller exceeded its rate limit; a later retry may succeed."""

    code, status, title, exit_code = "rate-limited", 429, "Too many requests", EXIT_UNAVAILABLE

    def __init__(
        self, detail: str, *, retry_after_s: int, fix: str | None = None, error_id: str | None = None
    ) -> None:
        super().__init__(detail, fix=fix, error_id=error_id)
        self.retry_after_s = retry_after_s


class BrokerUnavailable(Unavailable):
    """The broker is unavailable, or was lost before it confirmed: publish again."""

    code, title = "broker-unavailable", "Broker unavailable"


class PublishRefused(BrokerUnavailable):
    """The broker closed the channel over a message in flight (no permission, no exchange), maybe this one.

    Publish it again alone to find out.
    """

    code, title = "publish-refused", "Message refused by the broker for good"


class Unroutable(Unavailable):
    """The broker returned a mandatory message: no queue is bound for it."""

    code, title = "unroutable", "Message unroutable"


class Nacked(Unavailable):
    """The broker refused to store the message (queue full or failing): publish again later."""

    code, title = "nacked", "Message refused by the broker"


def run_cli(app: Any) -> None:
    """Run a typer `app`; print an EspError as one line on stderr and exit with its code."""
    try:
        app()
    except EspError as error:
        print(error.line(), file=sys.stderr)
        sys.exit(error.exit_code)
