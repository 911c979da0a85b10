"""Secrets from files, so that none stands in a process list, an environment or an image."""

import stat
import warnings
from pathlib import Path
from typing import Final

from esp_common.errors import InvalidInput

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class LooseSecretWarning(UserWarning):
    """A secret file that others on the machine may read."""


def read_secret(path: str | Path) -> str:
    """Return the text of the secret file at `path` without surrounding white space.

    Warns when the file is open to group or others; raises InvalidInput when it cannot be read.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8").strip()
        mode = path.stat().st_mode
    except OSError as error:
        raise InvalidInput(f"secret file {path}: {error.strerror}", fix="check the *_FILE setting") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"secret file {path}: is not UTF-8 text", fix="is it the right file?") from error
    if mode & _OTHERS:
        warnings.warn(
            f"secret file {path} has mode {mode & 0o777:04o}: chmod 0600 it", LooseSecretWarning, stacklevel=2
        )
    return text
