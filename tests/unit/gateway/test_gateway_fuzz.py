"""Any bytes as a file, any text as a map: an answer or one error, and every line accounted for."""

from contextlib import suppress
from pathlib import Path

from esp_common.errors import EspError
from esp_gateway.encoding import Encoding, encode
from esp_gateway.errors import MapInvalid
from esp_gateway.inspection.proposal import propose
from esp_gateway.mapping import FileMap, load_map
from esp_gateway.records import open_records
from esp_gateway.replay import complaint, mapped_records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WORDS = [
    *(b"t,p,q\n", b"\n", b"\r", b'"', b",", b";", b"2026-10-25 02:30:00", b"1", b"Bad", b"NaN", b"1e999"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\xb0", "\u22125".encode()),
]
CONTENT = st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=6)), max_size=40).map(b"".join)
ENCODINGS = st.sampled_from([None, "utf-8", "cp1252", "utf-16", "utf-16-le", "utf-32", "shift_jis", "utf-7"])
FORMATS = st.sampled_from([None, "epoch-s", "epoch-ms", "excel", "%d.%m.%Y"])


@FUZZ
@given(CONTENT, ENCODINGS, FORMATS, st.booleans(), st.sampled_from(Encoding))
def test_any_file_is_read_line_by_line_or_refused(
    tmp_path: Path,
    content: bytes,
    encoding: str | None,
    format_: str | None,
    has_header: bool,
    form: Encoding,
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes((b"t,p,q\n" if has_header else b"") + content)
    file_map = FileMap.model_validate(
        {
            "pump_id": "P",
            "time": {"column": "t", "format": format_, "timezone": "Europe/Oslo"},
            "encoding": encoding,
            "columns": {"p": "motor_temp_c", "q": "running"},
        }
    )
    try:
        records = open_records(path, file_map.file_columns(), file_map.layout())
        rows = [row for _, row in mapped_records(records, file_map)]
    except EspError:
        return
    for row in rows:
        complaint(row, file_map.numbers)
    encode([row.reading for row in rows], form)
    lines = records.lines
    others = lines.title + lines.header + lines.units + lines.blank + lines.ignored + lines.continued
    assert lines.total == others + len(rows)


@FUZZ
@given(CONTENT)
def test_any_file_is_inspected_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"Time,Amps,x\n" + content)
    with suppress(EspError):
        FileMap.model_validate(propose(path, None).document)


@FUZZ
@given(
    st.one_of(
        st.text(), st.text("{}[]:,-&*!|>'\"\n abtrue0123.", max_size=60), st.text().map("pump_id: {}".format)
    )
)
def test_any_text_is_a_map_or_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with suppress(MapInvalid):
        load_map(path)
