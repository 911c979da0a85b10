"""Read secrets from files, so that none is in a process list, an environment or an image."""

import stat
import warnings
from pathlib import Path
from typing import Final

from esp_common.errors import InvalidInput

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_MOUNTED: Final = stat.S_IRUSR | stat.S_IRGRP
"""Mode of a secret mounted by Kubernetes or Compose: its group is the container's own."""


class LooseSecretWarning(UserWarning):
    """A secret file is readable by other users of the machine."""


def is_private(mode: int) -> bool:
    """Return whether a file of this mode is private: closed to group and others, or 0440 as mounted."""
    return not mode & _OTHERS or stat.S_IMODE(mode) == _MOUNTED


def read_secret(path: str | Path) -> str:
    """Return the text of the secret file at `path` without surrounding white space.

    Warns if the file is not private; raises InvalidInput if it cannot be read.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8").strip()
        mode = path.stat().st_mode
    except OSError as error:
        raise InvalidInput(f"secret file {path}: {error.strerror}", fix="check the *_FILE setting") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"secret file {path}: is not UTF-8 text", fix="is it the right file?") from error
    if not is_private(mode):
        warnings.warn(
            f"secret file {path} has mode {mode & 0o777:04o}: chmod 0600 it (0440 for a mounted one)",
            LooseSecretWarning,
            stacklevel=2,
        )
    return text
