"""Files of any size, sealed piece by piece: never whole in memory; none opens as another or cut short."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from esp_backup.domain.sealing import seal_piece, unseal_piece

SUFFIX: Final = ".sealed"
PIECE_BYTES: Final = 4 * 1024 * 1024
OVERHEAD_BYTES: Final = 28
"""What a piece grows by: nonce and tag."""


def seal_folder(key: bytes, source: Path, target: Path, name: str) -> None:
    """Write every file of `source` into `target`, sealed as of `name`; what is sealed is removed from there.

    A file goes as soon as it is sealed: both together need little more space than one.
    """
    for path in _files(source):
        relative = str(path.relative_to(source))
        sealed = _private(target / f"{relative}{SUFFIX}")
        with path.open("rb") as plain, sealed.open("wb") as file:
            for number, (piece, is_last) in enumerate(_pieces(plain, PIECE_BYTES)):
                owner = _owner(name, relative, number, is_last=is_last)
                file.write(seal_piece(key, piece, owner))
        path.unlink()


def open_folder(key: bytes, source: Path, target: Path, name: str) -> None:
    """Write what was sealed as of `name` into `target`; raise Unreadable for what does not open."""
    for path in _files(source):
        if path.suffix != SUFFIX:
            continue
        relative = str(path.relative_to(source)).removesuffix(SUFFIX)
        opened = _private(target / relative)
        with path.open("rb") as sealed, opened.open("wb") as file:
            for number, (piece, is_last) in enumerate(_pieces(sealed, PIECE_BYTES + OVERHEAD_BYTES)):
                owner = _owner(name, relative, number, is_last=is_last)
                file.write(unseal_piece(key, piece, owner))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _private(path: Path) -> Path:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(0o600)
    return path


def _pieces(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bool]]:
    """Return a file's pieces, and with each whether it is the last; an empty file is one empty piece."""
    piece = file.read(size)
    while True:
        following = file.read(size)
        yield piece, not following
        if not following:
            return
        piece = following


def _owner(name: str, relative: str, number: int, *, is_last: bool) -> str:
    """Return what a piece is of: moved, left out or cut off behind, it does not open."""
    return f"{name}/{relative}#{number}{'.' if is_last else '+'}"
