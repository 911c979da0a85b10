"""What lies under a part's name, held against the manifest: content counts, not the tag of an upload."""

from dataclasses import replace
from pathlib import Path

from esp_archiver.domain.planning import Part
from esp_archiver.exports import fetch
from esp_archiver.storage import Damaged, Found, Store
from esp_archiver.store.manifest import Stored

REPLACES = "replaces"
"""Note on a merged part: the SHA-256 of the object that it replaced, and holds all of."""


async def settled(store: Store, stored: Stored, folder: Path | None) -> Stored:
    """Read the object of a manifest row whole; return the row as it should be now.

    Good bytes that were uploaded again or copied have another tag; the same rows may have been written into
    another file; a run that was killed may have merged late readings in. Raises Damaged where it is none of
    these, NotFound, or Unavailable.
    """
    place, part = stored.part.place, stored.part
    found = await store.find(place.name)
    etag = found.etag if found else None
    read = await fetch(store, place, etag, folder, drops=part.drops, digest=part.digest)
    if read.part.content_hash == part.content_hash and _is_whole(read, stored, found):
        whole = replace(part, etag=read.part.etag)
        return replace(
            stored, part=whole, bytes=read.bytes, sha256=read.sha256, footer_bytes=read.footer_bytes
        )
    if found is not None and succeeds(found, read, stored):
        return replace(read, part=noted(read.part, found), revision=stored.revision)
    differs = [
        name
        for name, is_, was in (
            ("bytes", read.sha256, stored.sha256),
            ("rows", read.part.content_hash, part.content_hash),
            ("number of rows", read.part.rows, part.rows),
        )
        if is_ != was
    ]
    raise Damaged(f"other {', '.join(differs)} than were verified", fix="restore a good copy of the object")


def _is_whole(read: Stored, stored: Stored, found: Found | None) -> bool:
    """Whether every byte is as it was written: then, or by whoever wrote the same rows again."""
    return read.sha256 in (stored.sha256, found.notes.get("sha256") if found else None)


def succeeds(found: Found, read: Stored, stored: Stored) -> bool:
    """Whether an object is a merged part that replaced the one of the manifest row."""
    return found.notes.get("sha256") == read.sha256 and found.notes.get(REPLACES) == stored.sha256


def noted(part: Part, found: Found) -> Part:
    """Return a merged part with what its object's notes say of the source."""
    notes = found.notes
    return replace(
        part,
        digest=int(notes.get("digest", 0)),
        drops=int(notes.get("drops", 0)),
        source_rows=int(notes["source_rows"]) if "source_rows" in notes else None,
        sole=True,
    )
