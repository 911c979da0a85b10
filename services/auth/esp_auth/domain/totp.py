"""The second factor: six digits of RFC 6238, each valid for one login."""

import hmac
from typing import Final

import pyotp

STEP_S: Final = 30
DRIFT_STEPS: Final = 1
"""Tolerated steps of clock drift, in either direction."""
ISSUER: Final = "ESP platform"


def new_secret() -> str:
    """Return a fresh secret of 160 bits in base32."""
    return pyotp.random_base32(32)


def provisioning_uri(secret: str, username: str) -> str:
    """Return the otpauth URI that an authenticator reads as a QR code."""
    return pyotp.TOTP(secret).provisioning_uri(name=username, issuer_name=ISSUER)


def code_at(secret: str, step: int) -> str:
    """Return the code of one step of 30 s since the epoch."""
    return pyotp.HOTP(secret).at(step)


def accepted_step(secret: str, code: str, now_s: float, last_step: int | None) -> int | None:
    """Return the step of a valid code, None if the code is wrong, out of time or used.

    `now_s`: seconds since the epoch. `last_step`: of the last accepted code; it and earlier ones are spent.
    """
    now = int(now_s // STEP_S)
    # Compare with every candidate, so that the time taken reveals nothing.
    matching = [
        step
        for step in range(max(0, now - DRIFT_STEPS), now + DRIFT_STEPS + 1)
        if hmac.compare_digest(code_at(secret, step).encode(), code.encode())
    ]
    return next((step for step in matching if last_step is None or step > last_step), None)
