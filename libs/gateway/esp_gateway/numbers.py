"""Parse numbers in files: decimal commas, thousands separators, minus signs of other alphabets."""

import re
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Final

_SPACES: Final = " \u00a0\u2009\u202f"
_NOT_FINITE: Final = frozenset({"nan", "inf", "infinity", "+inf", "-inf", "+infinity", "-infinity"})
_MAX_LENGTH: Final = 60


@dataclass(frozen=True)
class NumberFormat:
    """Number format of a file: the `decimal` mark, and the mark between thousands, if any."""

    decimal: str = "."
    thousands: str | None = None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        mark = re.escape(self.decimal)
        whole = "[0-9]+"
        if self.thousands:
            between = f"[{_SPACES}]" if self.thousands == " " else re.escape(self.thousands)
            whole = f"(?:[0-9]{{1,3}}(?:{between}[0-9]{{3}})+|[0-9]+)"
        return re.compile(f"[+-]?(?:{whole}(?:{mark}[0-9]*)?|{mark}[0-9]+)(?:[eE][+-]?[0-9]{{1,3}})?")

    def parse(self, text: str) -> float | None:
        """Return `text` as a number, including NaN and infinities, or None if it is not one."""
        text = text.strip()
        if len(text) > _MAX_LENGTH:
            return None
        if not text.isascii():
            text = text.replace("\u2212", "-")
        if self._pattern.fullmatch(text):
            if self.decimal == "." and not self.thousands:
                return float(text)
            if self.thousands:
                for mark in _SPACES if self.thousands == " " else self.thousands:
                    text = text.replace(mark, "")
            return float(text.replace(self.decimal, "."))
        return float(text) if text.casefold() in _NOT_FINITE else None

    def hint(self, text: str) -> str:
        """Return a hint which map entry would parse `text` as a number, or nothing."""
        if self.parse(text) is not None:
            return ""
        for other in (
            NumberFormat(","),
            NumberFormat(",", "."),
            NumberFormat(",", " "),
            NumberFormat(".", ","),
        ):
            value = other.parse(text)
            if value is not None and isfinite(value):
                marks = f"decimal: '{other.decimal}'"
                return f"{marks}, thousands: '{other.thousands}'" if other.thousands else marks
        return ""
