"""What a field gateway can run into, each with the place and the way out in its message."""

from esp_common.errors import Conflict, EspError, InvalidInput, Unavailable


class SpoolFull(Unavailable):
    """The spool is at its limit and its policy is to refuse: offer the readings again later."""

    code, title = "spool-full", "Spool full"


class SpoolBusy(Conflict):
    """Another process is writing to this spool."""

    code, title = "spool-busy", "Spool in use"


class SpoolUnusable(EspError):
    """The spool file is damaged, or is no spool of this gateway."""

    code, status, title = "spool-unusable", 500, "Spool unusable"


class ReadingTooLarge(InvalidInput):
    """One reading alone is larger than a message may be."""

    code, title = "reading-too-large", "Reading too large"


class MapInvalid(InvalidInput):
    """The map does not say how to read the file."""

    code, title = "map-invalid", "Map invalid"


class LinkRefused(EspError):
    """The broker answers, but not to this gateway: wrong key, unknown gateway, or another's name."""

    code, status, title = "link-refused", 403, "Refused by the broker"
