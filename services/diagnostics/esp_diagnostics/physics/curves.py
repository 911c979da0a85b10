"""Curves shipped with the service, as examples of the file format and of a pump."""

from importlib.resources import files

from esp_diagnostics.physics.curve import PumpCurve
from esp_diagnostics.physics.curve_files import parse_json


def an550() -> PumpCurve:
    """Return REDA's AN550 (60 Hz, 400 to 700 bpd).

    Head is the published polynomial. Power is a parabola through the published duty, 23.0 hp for 250
    stages at 55 Hz and 480 bpd of gravity 0.92, with its best efficiency at 560 bpd: its maker's power
    curve takes its place where one has it.
    """
    return parse_json((files(__package__) / "an550.json").read_text("utf-8"))
