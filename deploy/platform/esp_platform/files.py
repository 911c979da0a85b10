"""Locations of TLS files and of the files that `render` writes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TlsFiles:
    """Certificate, key and authority of a server, as paths that the server reads."""

    certificate: str
    key: str
    authority: str


def write_private(path: Path, text: str) -> bool:
    """Write `text` readable by its owner only and replace the file at once; return whether it changed."""
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(0o600)
    new.write_text(text)
    new.replace(path)
    return True
