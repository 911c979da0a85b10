"""Waiting time after failed logins, whether or not the account exists."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Rule:
    """`free` failures have no effect; each further one doubles the wait, `first_s` to `longest_s` seconds.

    Failures are forgotten `forget_s` seconds after the last one, which is longer than any wait.
    """

    free: int
    first_s: float
    longest_s: float
    forget_s: float


@dataclass(frozen=True, slots=True)
class Attempts:
    """Remembered failures of one subject, and the time of the last one."""

    failures: int
    last_at: datetime


def wait_s(attempts: Attempts | None, rule: Rule, now: datetime) -> float:
    """Return the seconds until the next attempt is accepted; 0: now."""
    if attempts is None or _forgotten(attempts, rule, now):
        return 0.0
    over_at = attempts.last_at + timedelta(seconds=_penalty_s(attempts, rule))
    return max(0.0, (over_at - now).total_seconds())


def delay_s(attempts: Attempts | None, rule: Rule, now: datetime) -> float:
    """Return the seconds that each attempt is delayed, however old the last failure is; 0: not at all."""
    if attempts is None or _forgotten(attempts, rule, now):
        return 0.0
    return _penalty_s(attempts, rule)


def after_failure(attempts: Attempts | None, rule: Rule, now: datetime) -> Attempts:
    """Return the attempts with one more failure."""
    if attempts is None or _forgotten(attempts, rule, now):
        return Attempts(1, now)
    return Attempts(attempts.failures + 1, max(now, attempts.last_at))


def _penalty_s(attempts: Attempts, rule: Rule) -> float:
    if attempts.failures < rule.free:
        return 0.0
    # A float can hold 2 ** 1000; no wait needs the sixty-fifth doubling.
    doublings = min(attempts.failures - rule.free, 64)
    return min(rule.first_s * 2.0**doublings, rule.longest_s)


def _forgotten(attempts: Attempts, rule: Rule, now: datetime) -> bool:
    return now - attempts.last_at > timedelta(seconds=rule.forget_s)
