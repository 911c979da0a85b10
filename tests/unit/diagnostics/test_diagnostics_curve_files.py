"""Pump curves in JSON and CSV: units, and rejection with place and fix."""

import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from esp_common.errors import InvalidInput
from esp_diagnostics.physics import units
from esp_diagnostics.physics.curve import InvalidCurve, Polynomial, RateTable
from esp_diagnostics.physics.curve_files import parse_csv, parse_json
from esp_diagnostics.physics.curves import an550
from hypothesis import given
from hypothesis import strategies as st

CSV = """\
# model: Example 70
# rated_frequency_hz: 50
# min_rate: 50
# max_rate: 95
# gas_handler: yes
rate [m3/d], head [m], power [kW]
0,5.1,
40,4.9,0.052

70,4.3,0.060
100,3.2,0.065
130,1.6,0.066
"""

POLYNOMIAL = {"model": "x", "min_bpd": 200, "max_bpd": 400, "head_ft_per_stage": [30, 0, -1e-4]}
TABLE = {"model": "x", "min_bpd": 200, "max_bpd": 400, "table": {"rate": [0, 200, 450], "head": [30, 25, 10]}}


def test_the_shipped_curve_is_the_published_one():
    curve = an550()

    assert curve.model == "REDA AN550"
    assert curve.head_ft == Polynomial(
        (22.1654, 4.04863e-3, -7.36963e-5, 1.58516e-7, -1.80729e-10, 6.23138e-14)
    )
    assert (curve.min_bpd, curve.max_bpd, curve.rated_frequency_hz) == (400, 700, 60)


def test_a_csv_table_is_converted_from_its_units():
    curve = parse_csv(CSV)

    assert (curve.model, curve.rated_frequency_hz, curve.gas_handler) == ("Example 70", 50, True)
    assert curve.min_bpd == pytest.approx(314.49, abs=0.01)
    assert curve.max_bpd == pytest.approx(597.53, abs=0.01)
    assert curve.head_ft.values(np.array(70 * 6.28981)) == pytest.approx(4.3 / 0.3048, rel=1e-4)
    assert curve.brake_hp.first_bpd == pytest.approx(40 * 6.28981, rel=1e-4)
    assert curve.brake_hp.at_rates[0] == pytest.approx(0.052 / 0.7457, rel=1e-4)


def test_equal_json_and_csv_tables_give_the_same_curve():
    table = {
        "rate [m3/d]": [0, 40, 70, 100, 130],
        "head [m]": [5.1, 4.9, 4.3, 3.2, 1.6],
        "power [kW]": [None, 0.052, 0.060, 0.065, 0.066],
    }
    fields = {
        "model": "Example 70",
        "rated_frequency_hz": 50,
        "min_rate": 50,
        "max_rate": 95,
        "gas_handler": True,
    }

    assert parse_json(json.dumps(fields | {"table": table})) == parse_csv(CSV)


def test_a_table_without_units_is_in_bpd_feet_and_horsepower():
    curve = parse_csv(
        "\ufeff# model: x\r\n# min_bpd: 200\r\n# max_bpd: 400\r\nrate,head\r\n0,30\r\n200,25\r\n450,10\r\n"
    )

    assert curve.head_ft == RateTable((0, 200, 450), (30, 25, 10))
    assert curve == parse_json(json.dumps(TABLE))


def test_the_best_rate_is_read():
    assert parse_json(json.dumps(POLYNOMIAL | {"best_bpd": 300})).best_bpd == 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "text: is not valid JSON .*line 1 column 2"),
        ("[" * 100_000, "text: is not valid JSON"),
        ("[]", "text: is not an object"),
        (json.dumps({**POLYNOMIAL, "head_ft_per_stage": None}), "text: has no head"),
        (json.dumps({**POLYNOMIAL, "table": TABLE["table"]}), "has both polynomials and a table"),
        (json.dumps({**POLYNOMIAL, "head_ft_per_stage": "30"}), "head_ft_per_stage: is not a list"),
        (
            json.dumps({**POLYNOMIAL, "head_ft_per_stage": [30, "x"]}),
            r"head_ft_per_stage\[1\]: 'x' is not a finite",
        ),
        (json.dumps({**POLYNOMIAL, "head_ft_per_stage": [30, True]}), r"head_ft_per_stage\[1\]: True is not"),
        (json.dumps({**POLYNOMIAL, "head_ft_per_stage": [30, 10**400]}), r"head_ft_per_stage\[1\]: 1000"),
        (json.dumps({**POLYNOMIAL, "min_bpd": float("nan")}), "min_bpd: nan is not a finite"),
        (json.dumps({**POLYNOMIAL, "min_bpd": None}), "min_bpd: is missing"),
        (json.dumps({**POLYNOMIAL, "model": " "}), "model: is missing"),
        (json.dumps({**POLYNOMIAL, "stages": 3}), "stages: 'stages' is not a field"),
        (json.dumps({**POLYNOMIAL, "gas_handler": [1]}), "gas_handler: .* neither true nor false"),
        (json.dumps({**POLYNOMIAL, "rated_frequency_hz": 0}), "rated frequency 0 Hz"),
        (json.dumps({**POLYNOMIAL, "min_rate": 200}), "min_rate: duplicates min_bpd"),
        (
            json.dumps({"model": "x", "min_bpd": 1, "max_bpd": 2, "bhp_per_stage": [1]}),
            "head_ft_per_stage: is missing",
        ),
        (json.dumps({**TABLE, "table": [1]}), "table: is not an object"),
        (json.dumps({**TABLE, "table": {"rate": [0, 1, 2]}}), "table: has no column head"),
        (
            json.dumps({**TABLE, "table": {"rate": [0, 200, 450], "head": [3, 2]}}),
            "columns of different lengths",
        ),
        (json.dumps({**TABLE, "table": {**TABLE["table"], "rate [m3/d]": [0, 1, 2]}}), "is a second rate"),
        (
            json.dumps({**TABLE, "table": {"rate": [0, 450, 200], "head": [30, 25, 10]}}),
            "200 bpd follows 450 bpd",
        ),
    ],
)
def test_invalid_json_is_rejected_with_its_place(text, message):
    with pytest.raises(InvalidCurve, match=message):
        parse_json(text)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("70,4.3", "70,4;3", "line 10, head .m.: '4;3' is not a finite number"),
        ("70,4.3,0.060", "70,4.3", "line 10: has 2 values for 3 columns"),
        ("# min_rate: 50", "# min_rate: fifty", "line 3: 'fifty' is not a finite number"),
        ("# min_rate", "# minrate", "line 3: 'minrate' is not a field"),
        ("head [m]", "head [psi]", "column 'head .psi.': unit 'psi' is unknown or not convertible to ft"),
        ("head [m]", "lift", "column 'lift': is unknown"),
        ("power [kW]", "head [m]", "line 6: names a column twice"),
        ("40,4.9", "140,4.9", "bpd follows"),
        (CSV, "# model: x\n", "text: has neither header"),
    ],
)
def test_invalid_csv_is_rejected_with_its_line(before, after, message):
    with pytest.raises(InvalidCurve, match=message):
        parse_csv(CSV.replace(before, after))


def test_all_problems_are_reported_at_once():
    with pytest.raises(InvalidCurve, match=r"and 2 more") as refused:
        parse_csv(CSV.replace("40,4.9", "forty,4.9").replace("100,3.2", "100,x").replace("130,1.6", "130,y"))

    assert [field["where"] for field in refused.value.fields] == [
        "line 8, rate [m3/d]",
        "line 11, head [m]",
        "line 12, head [m]",
    ]
    assert all(field["fix"] for field in refused.value.fields)


@given(text=st.text(max_size=200))
def test_arbitrary_text_is_rejected(text):
    for parse in (parse_json, parse_csv):
        with pytest.raises(InvalidCurve):
            parse(text)


@given(text=st.text(alphabet='{}[]:,"0123456789.e-+ratehdnul#\n', max_size=80))
def test_a_garbled_table_is_parsed_or_rejected(text):
    with suppress(InvalidCurve):
        parse_csv(CSV.replace("0,5.1,", text))


@pytest.mark.parametrize("unit", ["", "furlong", "psi", "m**3/day", "9" * 50, "m3/d" * 20])
def test_units_of_other_dimensions_are_rejected(unit):
    with pytest.raises(InvalidInput, match="unknown or not convertible to bpd"):
        units.factor(unit, "bpd")


def test_field_units_are_converted():
    assert units.factor("m3/d", "bpd") == pytest.approx(6.28981, rel=1e-5)
    assert units.factor("gpm", "bpd") == pytest.approx(34.2857, rel=1e-5)
    assert units.factor("m", "ft") == pytest.approx(3.28084, rel=1e-5)
    assert units.factor("kW", "hp") == pytest.approx(1.34102, rel=1e-5)


def test_curves_compare_by_value():
    assert an550() == an550()
    assert replace(an550(), min_bpd=450) != an550()
