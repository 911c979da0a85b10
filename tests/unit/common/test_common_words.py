"""One table of words for flags, codes and "no value", whatever the format they come in."""

import pytest
from esp_common.contracts.words import normalise, parse_flag, parse_whole, status_text
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (True, True), (1, True), (1.0, True), ("1", True), ("1.0", True), ("1.00", True), ("ON", True),
        ("On", True), (" Running ", True), ("TRUE", True), ("yes", True), ("run", True),
        (False, False), (0, False), (-0.0, False), ("0", False), ("OFF", False), ("Stopped", False),
        (2, None), (0.5, None), (float("nan"), None), ("", None), ("maybe", None), ("Bad", None),
        (None, None), ([1], None), ("1_0", None), (10**30, None),
    ],
)  # fmt: skip
def test_a_flag_is_known_by_its_common_words(sent: object, meant: bool | None) -> None:
    assert parse_flag(sent) is meant


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (16, 16), (16.0, 16), ("16", 16), ("16.0", 16), (" 0 ", 0), ("-3", -3), ("+4", 4),
        (16.5, None), ("16.5", None), (True, None), ("", None), ("1e1", None), ("1_6", None), ("٣", None),
        ("nan", None), (float("inf"), None), (2**31, None), ("2147483648", None), ("9" * 400, None),
        ("--3", None), (".", None),
    ],
)  # fmt: skip
def test_a_code_is_a_whole_number_however_it_is_written(sent: object, meant: int | None) -> None:
    assert parse_whole(sent) == meant


def test_a_tags_own_words_come_first() -> None:
    states = {"läuft": True, "1": False, "2": True}
    assert [parse_flag(each, states) for each in ("LÄUFT", 1, 1.0, 2, "2", "on", 3)] == [
        True, False, False, True, True, True, None,
    ]  # fmt: skip
    assert [parse_whole(each, {"overload": 16}) for each in ("Overload", "7", 7)] == [16, 7, 7]


@pytest.mark.parametrize(
    "text",
    ["Bad", "No Data", "Inp OutRange", "Scan Timeout", "  bad  INPUT ", "I/O Timeout", "[-11059] No Good"[9:],
     "#N/A", "---", "?????", "NULL", "NaN", "[Bad]"],
)  # fmt: skip
def test_status_texts_of_historians_are_known(text: str) -> None:
    assert status_text(text) == text.strip()


@pytest.mark.parametrize("value", ["", " ", "12", "812,4", "hello", "12 psi", 5, None, True, "bad" * 100])
def test_other_values_are_no_status_text(value: object) -> None:
    assert status_text(value) is None


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.binary()))
def test_no_value_breaks_the_tables(value: object) -> None:
    for parse in (parse_flag, parse_whole, status_text):
        parse(value)
    if isinstance(value, str):
        assert normalise(normalise(value)) == normalise(value)
