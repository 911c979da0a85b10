"""Errors of a field gateway; each message says where and how to fix it."""

from esp_common.errors import Conflict, EspError, InvalidInput, Unavailable


class SpoolFull(Unavailable):
    """The spool is full and its policy is to refuse: offer the readings again later."""

    code, title = "spool-full", "Spool full"


class SpoolBusy(Conflict):
    """Another process is writing to this spool."""

    code, title = "spool-busy", "Spool in use"


class SpoolUnusable(EspError):
    """The spool file is damaged, or is no spool of this gateway."""

    code, status, title = "spool-unusable", 500, "Spool unusable"


class ReadingTooLarge(InvalidInput):
    """A single reading exceeds the maximum message size."""

    code, title = "reading-too-large", "Reading too large"


class MapInvalid(InvalidInput):
    """The map does not describe the file."""

    code, title = "map-invalid", "Map invalid"


class LinkRefused(EspError):
    """The broker refuses this gateway: wrong key, unknown gateway, or another gateway's name."""

    code, status, title = "link-refused", 403, "Refused by the broker"
