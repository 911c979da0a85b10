"""Writes the generated parts of docs/security.md: the permission matrix and the IEC 62443-3-3 table.

`python tests/security/document.py` brings the document up to date; a test fails while it is not.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import yaml
from esp_common.auth import PERMISSIONS, ROLES

ROOT: Final = Path(__file__).parents[2]
DOCUMENT: Final = ROOT / "docs" / "security.md"
REQUIREMENTS: Final = Path(__file__).with_name("iec62443.yaml")
ENOUGH: Final = 0.8
TARGET_LEVEL: Final = 2

FOUNDATIONS: Final = (
    "Identification and authentication control",
    "Use control",
    "System integrity",
    "Data confidentiality",
    "Restricted data flow",
    "Timely response to events",
    "Resource availability",
)
STATES: Final = ("met", "partly", "not met", "outside")


@dataclass(frozen=True)
class Requirement:
    """One system requirement or enhancement: how it is met, where, and which tests show it."""

    id: str
    title: str
    level: int
    state: Literal["met", "partly", "not met", "outside"]
    how: str
    where: Sequence[str] = ()
    tests: Sequence[str] = field(default=())

    @property
    def is_enhancement(self) -> bool:
        """Whether it is an RE and not an SR."""
        return " RE " in self.id

    @property
    def foundation(self) -> int:
        """Number of its foundational requirement."""
        return int(self.id.removeprefix("SR ").split(".")[0])

    def counts(self, existing: frozenset[str]) -> bool:
        """Return whether it is met, by tests all of which are among the `existing`."""
        return self.state == "met" and bool(self.tests) and set(self.tests) <= existing


def requirements() -> list[Requirement]:
    """Return every requirement, in the order of the standard."""
    return [Requirement(**entry) for entry in yaml.safe_load(REQUIREMENTS.read_text())]


@dataclass(frozen=True)
class Share:
    """How many of those that apply are covered."""

    covered: int
    apply: int
    outside: int

    @classmethod
    def of(cls, chosen: Iterable[Requirement], existing: frozenset[str]) -> "Share":
        """Count requirements."""
        listed = list(chosen)
        apply = [each for each in listed if each.state != "outside"]
        covered = sum(each.counts(existing) for each in apply)
        return cls(covered, len(apply), len(listed) - len(apply))

    def __str__(self) -> str:
        return f"{self.covered} of {self.apply} = {self.covered / self.apply:.1%}"


def shares(found: Sequence[Requirement], existing: frozenset[str]) -> tuple[Share, Share]:
    """Return the share of the SRs, and of all that the target level wants."""
    systems = (each for each in found if not each.is_enhancement)
    at_level = (each for each in found if each.level <= TARGET_LEVEL)
    return Share.of(systems, existing), Share.of(at_level, existing)


def tests_of(found: Iterable[Requirement]) -> frozenset[str]:
    """Return every test that is named."""
    return frozenset(test for each in found for test in each.tests)


def collected(named: Iterable[str]) -> frozenset[str]:
    """Return those of the `named` tests that pytest collects, and does not skip or expect to fail."""
    files = sorted({test.split("::")[0] for test in named})
    present = [file for file in files if (ROOT / file).exists()]
    runnable = "not skip and not skipif and not xfail"
    command = (sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider")
    done = subprocess.run(
        [*command, "-m", runnable, *present], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if "::" not in done.stdout:
        raise SystemExit(f"pytest collects nothing:\n{done.stdout}{done.stderr}")
    lines = (line.split("[")[0].strip() for line in done.stdout.splitlines() if "::" in line)
    return frozenset(lines) & frozenset(named)


# --- text -------------------------------------------------------------------------------------------------


def matrix() -> str:
    """Return the table of permissions as Markdown."""
    rows = [("permission", *ROLES), ("---", *(":-:" for _ in ROLES))]
    rows += [
        (f"`{permission}`", *("✓" if role in having else "" for role in ROLES))
        for permission, having in PERMISSIONS.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def summary() -> str:
    """Return the counts, taking it that the tests that are named exist: another test sees to that."""
    found = requirements()
    systems, at_level = shares(found, tests_of(found))
    outside = ", ".join(each.id.removeprefix("SR ") for each in found if each.state == "outside")
    states = {
        state: sum(each.state == state and not each.is_enhancement for each in found) for state in STATES
    }
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    return "\n".join(
        (
            f"- **{systems}** of the system requirements that apply are met, each by tests that exist.",
            f"- {at_level} of what security level {TARGET_LEVEL} wants, enhancements included.",
            f"- Of the {sum(states.values())} system requirements: {counts}.",
            f"- Outside of what software can meet, and in neither share: {outside}.",
        )
    )


def table() -> str:
    """Return the requirements as Markdown tables, one for each foundational requirement."""
    found = requirements()
    parts = []
    for number, title in enumerate(FOUNDATIONS, 1):
        rows = [_row(each) for each in found if each.foundation == number]
        head = "| requirement | SL | state | how | where | tests |\n| --- | :-: | --- | --- | --- | --- |"
        parts.append("\n".join((f"### FR {number}: {title.lower()}", "", head, *rows)))
    return "\n\n".join(parts)


def _row(each: Requirement) -> str:
    cells = (
        f"**{each.id}** {each.title}",
        str(each.level),
        each.state,
        each.how,
        _lines(each.where),
        _lines(test.removeprefix("tests/") for test in each.tests),
    )
    return f"| {' | '.join(cells)} |"


def _lines(texts: Iterable[str]) -> str:
    return "<br>".join(f"`{text}`" for text in texts) or "–"


PARTS: Final[Mapping[str, Callable[[], str]]] = {"permissions": matrix, "counts": summary, "table": table}


def generated(document: str) -> str:
    """Return the document with every generated part as it should be."""
    for name, text in PARTS.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end of {name} -->)", re.DOTALL)
        document, count = between.subn(lambda found, text=text: f"{found[1]}{text()}{found[2]}", document)
        if count != 1:
            raise SystemExit(f"{DOCUMENT}: there is not one place for {name}")
    return document


if __name__ == "__main__":
    DOCUMENT.write_text(generated(DOCUMENT.read_text()))
    wanting = tests_of(requirements()) - collected(tests_of(requirements()))
    for test in sorted(wanting):
        print(f"no such test: {test}", file=sys.stderr)
    sys.exit(bool(wanting))
