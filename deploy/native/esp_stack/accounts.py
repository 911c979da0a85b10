"""The accounts of what runs out of this checkout: one for each service, and one for its schema's owner."""

import os
import pwd
from getpass import getuser
from pathlib import Path

from esp_stack.programs import StackError, own_account, separate_accounts

ACCOUNTS = tuple((Path(__file__).parents[1] / "accounts.txt").read_text().split())
"""What `install.sh` creates."""


def account_of(name: str) -> str | None:
    """Return the account `esp-<name>`; None where all processes run as one account."""
    return own_account(f"esp-{name}")


def check_accounts() -> None:
    """Raise `StackError` if root is to run a stack and an account is missing."""
    if os.geteuid() == 0 and (missing := [name for name in ACCOUNTS if not _exists(name)]):
        raise StackError(
            f"accounts are missing: {', '.join(missing)} — run `make up` as root, which creates them"
        )


def shared_account_warning() -> str | None:
    """Return what it means that all processes run as one account; None where each service has its own."""
    if separate_accounts():
        return None
    reason = (
        "other accounts cannot read this checkout"
        if os.geteuid() == 0
        else "only root can start processes as other accounts"
    )
    return (
        f"WARNING: all processes of this checkout run as one account ({_invoking()}): {reason}. Each service"
        " can read the secrets and files of every other. For one account per service run `make up` as root"
        " from a folder that every account can read."
    )


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _invoking() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # a user id without an entry
        return f"uid {os.geteuid()}"
