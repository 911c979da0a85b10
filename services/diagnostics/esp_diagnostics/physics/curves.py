"""Curve shipped with the service, as an example of the file format."""

from importlib.resources import files

from esp_diagnostics.physics.curve import PumpCurve
from esp_diagnostics.physics.curve_files import parse_json


def an550() -> PumpCurve:
    """Return the curve of REDA's AN550 (60 Hz, 400 to 700 bpd).

    Head is the published polynomial. Power is a parabola through the published duty point (23.0 hp for 250
    stages at 55 Hz and 480 bpd, specific gravity 0.92) with best efficiency at 560 bpd; replace it with the
    manufacturer's power curve where available.
    """
    return parse_json((files(__package__) / "an550.json").read_text("utf-8"))
