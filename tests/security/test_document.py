"""docs/security.md says what is so: its tables are current, what it names exists, and enough is met.

That the tests it names pass is this same run's to say: they are part of the suite, which is green or not;
those that are skipped or expected to fail do not count.
"""

from pathlib import Path

import document
import pytest
from document import Requirement


@pytest.fixture(scope="module")
def requirements() -> list[Requirement]:
    """Every requirement."""
    return document.requirements()


@pytest.fixture(scope="module")
def existing(requirements: list[Requirement]) -> frozenset[str]:
    """The named tests that pytest collects."""
    return document.collected(document.tests_of(requirements))


def test_the_document_is_current() -> None:
    written = document.DOCUMENT.read_text()
    assert written == document.generated(written), "run: .venv/bin/python tests/security/document.py"


def test_every_requirement_of_the_standard_is_there_once(requirements: list[Requirement]) -> None:
    systems = [each.id for each in requirements if not each.is_enhancement]
    sizes = (13, 12, 9, 3, 4, 2, 8)
    assert systems == [f"SR {fr}.{n}" for fr, size in enumerate(sizes, 1) for n in range(1, size + 1)]
    assert len({each.id for each in requirements}) == len(requirements)
    assert sum(each.level <= document.TARGET_LEVEL for each in requirements) == 60


def test_what_is_outside_of_software_is_what_the_platform_cannot_have(
    requirements: list[Requirement],
) -> None:
    outside = {each.id.removeprefix("SR ") for each in requirements if each.state == "outside"}
    assert outside == {"1.6", "1.6 RE 1", "2.2", "2.3", "5.1 RE 1", "5.3", "7.5"}


def test_whatever_is_named_exists(requirements: list[Requirement], existing: frozenset[str]) -> None:
    assert document.tests_of(requirements) - existing == frozenset()
    places = {place for each in requirements for place in each.where}
    assert {place for place in places if not Path(document.ROOT / place).exists()} == set()


def test_what_is_met_says_where_and_by_which_test(requirements: list[Requirement]) -> None:
    assert [each.id for each in requirements if each.state not in document.STATES] == []
    assert [each.id for each in requirements if each.state == "met" and not (each.where and each.tests)] == []


def test_enough_is_met(requirements: list[Requirement], existing: frozenset[str]) -> None:
    systems, _ = document.shares(requirements, existing)
    assert systems.covered / systems.apply >= document.ENOUGH, str(systems)
