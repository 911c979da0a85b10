"""Choose the signing key and the published keys: a key is published before it signs and long after."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A signing key: it signs from `signs_from` until the next key does."""

    kid: str
    public_key: bytes
    sealed_private_key: bytes = field(repr=False)
    created_at: datetime
    signs_from: datetime


def signer(keys: Iterable[SigningKey], now: datetime) -> SigningKey | None:
    """Return the key that signs at `now`: the last whose time has come."""
    return max((key for key in keys if key.signs_from <= now), key=lambda key: key.signs_from, default=None)


def retired(keys: Sequence[SigningKey], now: datetime, token_lifetime_s: float) -> list[SigningKey]:
    """Return the keys that are no longer needed: the last token that each signed has expired."""
    ordered = sorted(keys, key=lambda key: key.signs_from)
    lifetime = timedelta(seconds=token_lifetime_s)
    return [key for key, following in pairwise(ordered) if following.signs_from + lifetime < now]


def published(keys: Sequence[SigningKey], now: datetime, token_lifetime_s: float) -> list[SigningKey]:
    """Return the keys of the JWKS: the current, future, and past ones with valid tokens."""
    gone = {key.kid for key in retired(keys, now, token_lifetime_s)}
    return sorted((key for key in keys if key.kid not in gone), key=lambda key: key.signs_from)
