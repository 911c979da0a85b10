"""Asset files: what is read from them, and how their mistakes are told."""

from pathlib import Path

import pytest
from esp_common.errors import InvalidInput
from esp_ingest.asset_files import parse_assets, read_assets
from esp_ingest.asset_kinds import Gateway, Pump, TagMap

AN550 = [22.1654, 4.04863e-3, -7.36963e-5, 1.58516e-7, -1.80729e-10, 6.23138e-14]

FIELD = f"""
fields: [{{field_id: north, name: North field}}]
wells: [{{well_id: W-1, field_id: north, name: Well 1}}]
pumps:
  - pump_id: P-1
    well_id: W-1
    model: REDA AN550
    stages: 250
    curve: {{head_ft_per_stage: {AN550}, min_bpd: 400, max_bpd: 700}}
    motor_rated_kw: 45
gateways: [{{gateway_id: gw-1, field_id: north, name: Gateway, pumps: [P-1]}}]
tag_maps:
  - gateway_id: gw-1
    tags: {{Pressure: {{channel: discharge_pressure_psi, unit: bar}}, anomaly: null}}
"""


def problems_of(text: str, suffix: str = ".yaml") -> list[dict[str, str]]:
    with pytest.raises(InvalidInput) as refused:
        parse_assets(text, suffix)
    assert refused.value.fields
    return refused.value.fields


def test_one_yaml_file_holds_every_kind() -> None:
    statements = parse_assets(FIELD, ".yaml")
    assert [statement.kind.name for statement in statements] == [
        "fields",
        "wells",
        "pumps",
        "gateways",
        "tag_maps",
    ]
    pump = statements[2].asset
    assert isinstance(pump, Pump)
    assert pump.curve is not None
    assert pump.curve.head_ft_per_stage == AN550
    assert pump.motor_rated_frequency_hz == 60


def test_a_tag_mapped_to_null_is_kept_as_known() -> None:
    tag_map = parse_assets(FIELD, ".yaml")[-1].asset
    assert isinstance(tag_map, TagMap)
    assert tag_map.tags["anomaly"] is None


def test_every_problem_of_a_file_is_told_with_its_line_and_attribute() -> None:
    found = problems_of(
        "fields:\n"
        "  - {field_id: no.dots, name: X}\n"
        "wells:\n"
        "  - {well_id: W-1, name: Well}\n"
        "pumps:\n"
        "  - {pump_id: 550, well_id: W-1, model: X, stages: 0, colour: red}\n"
    )
    places = {problem["where"] for problem in found}
    assert places == {
        "line 2 (fields[0]): field_id",
        "line 4 (wells[0]): field_id",
        "line 6 (pumps[0]): pump_id",
        "line 6 (pumps[0]): stages",
        "line 6 (pumps[0]): colour",
    }
    assert all(problem["what"] and problem["fix"] for problem in found)


def test_a_number_where_text_belongs_says_to_quote_it() -> None:
    (problem,) = problems_of("fields: [{field_id: a, name: 7}]")
    assert "quotes" in problem["fix"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b", "mapping"),
        ("fields: {a: b}", "not a list"),
        ("fieldz: []", "no kind of asset"),
        ("fields: [", "not YAML"),
        ("fields: [!!python/object:os.system {}]", "not YAML"),
        ("", "mapping"),
    ],
)
def test_a_file_of_another_shape_is_refused(text: str, words: str) -> None:
    assert words in problems_of(text)[0]["what"]


def test_an_asset_stated_twice_is_refused() -> None:
    (problem,) = problems_of("fields:\n  - {field_id: a, name: A}\n  - {field_id: a, name: B}\n")
    assert problem["where"].startswith("line 3")
    assert "line 2" in problem["fix"]


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ("{head_ft_per_stage: [10, 0.01], min_bpd: 0, max_bpd: 500}", "fall"),
        ("{head_ft_per_stage: [10, -0.1], min_bpd: 0, max_bpd: 500}", "positive"),
        ("{head_ft_per_stage: [10, -0.001], min_bpd: 500, max_bpd: 500}", "above min_bpd"),
        ("{head_ft_per_stage: [10, -0.001], bhp_per_stage: [-1], min_bpd: 0, max_bpd: 500}", "bhp"),
        ("{head_ft_per_stage: [.nan], min_bpd: 0, max_bpd: 500}", "finite"),
    ],
)
def test_a_curve_that_is_no_pumps_is_refused(curve: str, words: str) -> None:
    text = f"pumps: [{{pump_id: P, well_id: W, model: M, stages: 1, curve: {curve}}}]"
    assert words in problems_of(text)[0]["what"]


def test_a_unit_that_cannot_become_the_channels_is_refused_with_those_that_can() -> None:
    text = "tag_maps: [{gateway_id: g, tags: {P: {channel: intake_pressure_psi, unit: degC}}}]"
    (problem,) = problems_of(text)
    assert "degC" in problem["what"]
    assert "bar" in problem["what"]


def test_csv_pumps_carry_their_curve_in_dotted_columns() -> None:
    text = (
        "pump_id,well_id,model,stages,setting_depth_ft,"
        "curve.head_ft_per_stage,curve.min_bpd,curve.max_bpd\n"
        f"P-1,W-1,REDA AN550,250,,{';'.join(map(str, AN550))},400,700\n"
        "P-2,W-1,REDA AN550,250,5000,,,\n"
    )
    first, second = (statement.asset for statement in parse_assets(text, ".csv"))
    assert isinstance(first, Pump)
    assert isinstance(second, Pump)
    assert first.curve is not None
    assert first.curve.head_ft_per_stage == AN550
    assert first.setting_depth_ft is None
    assert second.curve is None
    assert second.setting_depth_ft == 5000


def test_csv_gateways_list_their_pumps() -> None:
    (statement,) = parse_assets("gateway_id,field_id,name,pumps\ngw-1,north,G,P-2; P-1\n", ".csv")
    assert isinstance(statement.asset, Gateway)
    assert statement.asset.pumps == ["P-1", "P-2"]


def test_csv_tag_maps_have_a_row_for_each_tag() -> None:
    text = (
        "gateway_id,tag,channel,unit\ngw-1,Pressure,discharge_pressure_psi,bar\ngw-1,anomaly,,\n"
        "gw-2,Run,running,\n"
    )
    first, second = (statement.asset for statement in parse_assets(text, ".csv"))
    assert isinstance(first, TagMap)
    assert isinstance(second, TagMap)
    assert set(first.tags) == {"Pressure", "anomaly"}
    assert second.tags["Run"] is not None


def test_csv_problems_name_their_line_and_column() -> None:
    text = "pump_id,well_id,model,stages\nP-1,W-1,M,ten\nP-2,W-1,M,\n"
    assert [problem["where"] for problem in problems_of(text, ".csv")] == [
        "line 2: stages",
        "line 3: stages",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "name,colour\nx,y\n",
        "",
        "gateway_id,tag,colour\ng,t,red\n",
        "field_id,name\nnorth\n",
        "field_id,name\nnorth,North,3\n",
        'field_id,name\n"north,North\n',
    ],
)
def test_csv_of_another_shape_is_refused(text: str) -> None:
    assert problems_of(text, ".csv")


def test_a_file_that_is_not_there_is_told_by_its_path(tmp_path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.yaml.*cannot be read"):
        read_assets(tmp_path / "none.yaml")


def test_the_example_of_a_replay_states_valid_assets() -> None:
    example = Path(__file__).parents[3] / "libs/gateway/examples/skab/assets.yaml"
    assert len(read_assets(example)) == 5


def test_a_tag_may_have_states_in_yaml_and_csv() -> None:
    yaml = """
tag_maps:
  - gateway_id: g
    tags: {S: {channel: running, states: {Läuft: true, "ON": true, Aus: false}}}
"""
    csv = """gateway_id,tag,channel,unit,states
g,S,running,,Läuft=true;ON=true;Aus=false
g,F,trip_code,,Overload=16
"""
    (from_yaml,), (from_csv,) = parse_assets(yaml, ".yaml"), parse_assets(csv, ".csv")
    assert isinstance(from_yaml.asset, TagMap)
    assert isinstance(from_csv.asset, TagMap)
    states = [tag_map.asset.tags["S"].states for tag_map in (from_yaml, from_csv)]
    assert states == [{"Läuft": True, "ON": True, "Aus": False}] * 2
    assert from_csv.asset.tags["F"].states == {"Overload": 16}


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("{channel: running, states: {ON: true}}", "quotes"),
        ("{channel: running, states: {Up: 1}}", "must be true or false, not 1"),
        ("{channel: trip_code, states: {Up: true}}", "must be a whole number"),
        ("{channel: trip_code, states: {Up: 4294967296}}", "within 32 bits"),
        ("{channel: running, states: {Up: true, 'UP ': false}}", "more than once: up"),
        ("{channel: motor_temp_c, states: {Up: true}}", "takes no states"),
        ("{channel: running, states: {}}", "at least 1"),
        ("{channel: insulation_resistance_mohm, unit: mohm}", "did you mean MΩ?"),
        ("{channel: active_power_kw, unit: mW}", "did you mean MW or kW?"),
    ],
)
def test_states_and_units_that_cannot_be_are_refused_with_the_line(target: str, what: str) -> None:
    (problem,) = problems_of(f"tag_maps:\n  - {{gateway_id: g, tags: {{S: {target}}}}}")
    assert problem["where"].startswith("line 2 (tag_maps[0]): tags.S")
    assert what in problem["what"] + problem["fix"]
