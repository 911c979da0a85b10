"""Start-up failures: which part, the last lines of its log, and what to do."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx
import psycopg

from esp_stack.programs import StackError

LOG_LINES = 12
LOG_LINE_LENGTH = 500
TAIL_BYTES = 64_000
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

ADVICE = (
    (
        r"address (is )?already in use|address in use|eaddrinuse|could not bind|in use by another",
        "another program has the port. `ss -ltnp` names it: stop it, or remove the part's line from"
        " ports.json of the stack's folder, and `make up` takes a free port",
    ),
    (
        r"no space left|enospc|disk full|could not write to file|insufficient disk",
        "the disk is full: free space on it, then run `make up` again",
    ),
    (
        r"read-only file system|erofs",
        "the disk is mounted read-only: mount it for writing, then run `make up` again",
    ),
    (
        r"permission denied|eacces|not permitted|operation not permitted",
        "the account of this part cannot read or write the path above: every folder on the way needs the"
        " permission x for others, and the part's own files belong to its account",
    ),
    (
        r"cannot allocate memory|out of memory|enomem",
        "the machine has too little free memory: stop other programs or give it more",
    ),
)
"""What a log says (regular expression, case ignored) and what to do; the first that matches."""

DATA_DAMAGE = re.compile(
    r"corrupt|invalid checkpoint|bad file format|not a valid|invalid data|invalid argument|could not locate"
    r"|pg_control|unexpected (end|eof)|checksum|panic|is not a database cluster|incompatible with server"
    r"|not_a_dets|bad_log|failed to open|error while decoding|error loading|short read|magic",
    re.IGNORECASE,
)
"""What logs say of data that cannot be read."""


START_FAILURES = (StackError, OSError, ValueError, subprocess.SubprocessError, httpx.HTTPError, psycopg.Error)
"""What goes wrong with a part that starts."""


class StartFailure(StackError):
    """A part did not start; the message has the last lines of its log and what to do."""


def start_failure(
    part: str, reason: Exception, logs: Sequence[Path] = (), *, data_remedy: str | None = None
) -> StartFailure:
    """Return the error that says why `part` did not start.

    `logs`: of its processes. `data_remedy`: what to do when they say that its data are damaged.
    """
    if isinstance(reason, StartFailure):
        return reason
    said = [describe(reason)]
    text = [f"{part} did not start: {said[0]}"]
    for log in logs:
        if lines := tail(log):
            said += lines
            text += [f"  last lines of {log}:", *(f"    {line[:LOG_LINE_LENGTH]}" for line in lines)]
    text.append("  what to do: " + advice("\n".join(said), data_remedy))
    return StartFailure("\n".join(text))


def describe(reason: Exception) -> str:
    """Return an error as one line that names the file it is about."""
    if isinstance(reason, OSError) and reason.filename:
        return f"{reason.strerror}: {reason.filename2 or reason.filename}"
    return " ".join(str(reason).split()) or type(reason).__name__


def advice(said: str, data_remedy: str | None) -> str:
    """Return what to do about a part that failed and `said` this."""
    for pattern, text in ADVICE:
        if re.search(pattern, said, re.IGNORECASE):
            return text
    if data_remedy and DATA_DAMAGE.search(said):
        return f"its data cannot be read: {data_remedy}"
    again = "mend what is named above, then run `make up` again"
    return f"{again}; if its data are damaged: {data_remedy}" if data_remedy else again


def tail(log: Path, count: int = LOG_LINES) -> Sequence[str]:
    """Return the last lines of a log that are not empty; none when there is no such file."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    return [plain for line in lines if (plain := COLOUR.sub("", line).rstrip())][-count:]
