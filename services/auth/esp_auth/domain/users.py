"""Usernames, and the duties of users before they may do anything."""

import re
from collections.abc import Collection
from typing import Final

from esp_common.errors import InvalidInput

USERNAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._@-]{1,63}$"
_USERNAME: Final = re.compile(USERNAME)

PASSWORD_DUTY: Final = "password"  # noqa: S105 - the name of a duty
TOTP_DUTY: Final = "totp"


def canonical_username(text: str) -> str:
    """Return the stored form of a username; case does not distinguish users."""
    if not _USERNAME.fullmatch(text):
        raise InvalidInput(
            "a username has 2 to 64 letters, digits or . _ @ - and begins with a letter or digit",
            fields=[{"where": ["username"], "what": "not a username"}],
        )
    return text.lower()


def duties(
    roles: Collection[str], *, must_change_password: bool, has_totp: bool, totp_required_for_admin: bool
) -> frozenset[str]:
    """Return the user's duties: change the password, enrol a second factor, or none."""
    found = set()
    if must_change_password:
        found.add(PASSWORD_DUTY)
    if totp_required_for_admin and "admin" in roles and not has_totp:
        found.add(TOTP_DUTY)
    return frozenset(found)


def is_username(text: str) -> bool:
    """Return whether the text is a valid username, in any case."""
    return _USERNAME.fullmatch(text) is not None
