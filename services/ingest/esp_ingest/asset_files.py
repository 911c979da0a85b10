"""Asset files: YAML with all kinds in one, CSV with one kind, which its header tells."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from esp_common.errors import InputProblem, InvalidInput

from esp_ingest.asset_kinds import KINDS, Kind, Statement, state

LISTS: Final = frozenset({"pumps", "curve.head_ft_per_stage", "curve.bhp_per_stage"})
"""CSV columns that hold several values, apart by semicolons."""

TAG_COLUMNS: Final = frozenset({"gateway_id", "tag", "channel", "unit", "states"})
"""CSV columns of a tag map: a row for each tag, without a channel where the tag is known and not kept.

States are `Läuft=true;Steht=false`.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One asset as a file states it, not yet validated; `where` names its line."""

    kind: Kind
    where: str
    document: Any


def read_assets(path: Path) -> list[Statement]:
    """Read the assets in `path` (.yaml, .yml or .csv).

    Raises `InvalidInput` with every problem of the file at once.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InvalidInput.of(
            [InputProblem(str(path), f"cannot be read ({error.strerror})", "check the path")]
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput.of(
            [InputProblem(str(path), f"is not UTF-8 at byte {error.start}", "save it as UTF-8")]
        ) from error
    return parse_assets(text, path.suffix.lower())


def parse_assets(text: str, suffix: str) -> list[Statement]:
    """Parse a file's `text`; `suffix` tells its format. Raises `InvalidInput` as `read_assets` does."""
    match suffix:
        case ".yaml" | ".yml":
            entries, problems = _yaml_entries(text)
        case ".csv":
            entries, problems = _csv_entries(text)
        case _:
            raise InvalidInput.of(
                [InputProblem("file name", f"ends in {suffix!r}", "name it .yaml, .yml or .csv")]
            )
    statements, more = _validated(entries)
    problems += more + _repeated(statements)
    if problems:
        raise InvalidInput.of(problems)
    return statements


def _validated(entries: Sequence[Entry]) -> tuple[list[Statement], list[InputProblem]]:
    statements, problems = [], []
    for entry in entries:
        statement, wrong = state(entry.kind, entry.document, entry.where)
        problems += wrong
        if statement is not None:
            statements.append(statement)
    return statements, problems


def _repeated(statements: Sequence[Statement]) -> list[InputProblem]:
    first: dict[tuple[str, str], str] = {}
    return [
        InputProblem(
            statement.where, f"{statement.id} is stated again", f"keep one; the first is at {earlier}"
        )
        for statement in statements
        if (earlier := first.setdefault((statement.kind.name, statement.id), statement.where))
        != statement.where
    ]


def _yaml_entries(text: str) -> tuple[list[Entry], list[InputProblem]]:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            return [], [
                InputProblem("line 1", "is not a mapping of kinds to assets", f"start with {_kinds()}")
            ]
        parts = [_yaml_kind(loader, key, value) for key, value in root.value]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return [], [InputProblem(f"line {line}", f"is not YAML ({error.problem})", "correct the line")]
    finally:
        loader.dispose()
    return [entry for entries, _ in parts for entry in entries], [p for _, wrong in parts for p in wrong]


def _yaml_kind(
    loader: yaml.SafeLoader, key: yaml.Node, value: yaml.Node
) -> tuple[list[Entry], list[InputProblem]]:
    where = f"line {key.start_mark.line + 1}"
    kind = KINDS.get(str(key.value))
    if kind is None:
        return [], [InputProblem(where, f"{key.value!r} is no kind of asset", f"use {_kinds()}")]
    if not isinstance(value, yaml.SequenceNode):
        return [], [InputProblem(where, f"{kind.name} is not a list", "start each asset with a dash")]
    return [
        Entry(
            kind,
            f"line {node.start_mark.line + 1} ({kind.name}[{index}])",
            loader.construct_object(node, deep=True),
        )
        for index, node in enumerate(value.value)
    ], []


def _kinds() -> str:
    return ", ".join(KINDS)


def _csv_entries(text: str) -> tuple[list[Entry], list[InputProblem]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        header = reader.fieldnames or []
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        return [], [InputProblem(f"line {reader.line_num}", f"is not CSV ({error})", "correct the line")]
    kind = _csv_kind(header)
    if kind is None:
        return [], [
            InputProblem("line 1", f"the header {', '.join(header)!r} tells no kind of asset", _header_help())
        ]
    ragged = [
        InputProblem(
            f"line {line}", "has not as many values as the header", "give each column a value or nothing"
        )
        for line, row in rows
        if None in row or None in row.values()
    ]
    if ragged:
        return [], ragged
    if kind.name == "tag_maps":
        return _csv_tag_maps(kind, rows)
    return [Entry(kind, f"line {line}", _nested(row)) for line, row in rows], []


def _csv_kind(header: Sequence[str]) -> Kind | None:
    """Return the kind whose rows `header` describes: a tag map has tags, any other kind its own id first."""
    if "tag" in header:
        return KINDS["tag_maps"] if TAG_COLUMNS.issuperset(header) else None
    plain = [kind for kind in KINDS.values() if kind.name != "tag_maps" and kind.key in header]
    return plain[-1] if plain and len(set(header)) == len(header) else None


def _header_help() -> str:
    keys = ", ".join(kind.key for kind in KINDS.values() if kind.name != "tag_maps")
    return f"name a column {keys}, or the columns {', '.join(sorted(TAG_COLUMNS))}"


def _nested(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a CSV row as a document: dots nest, empty is absent, listed columns split at semicolons."""
    document: dict[str, Any] = {}
    for column, text in row.items():
        if not text.strip():
            continue
        parent, _, attribute = column.rpartition(".")
        target = document.setdefault(parent, {}) if parent else document
        target[attribute] = [part.strip() for part in text.split(";")] if column in LISTS else text
    return document


def _csv_tag_maps(
    kind: Kind, rows: Sequence[tuple[int, Mapping[str, str]]]
) -> tuple[list[Entry], list[InputProblem]]:
    maps: dict[str, Entry] = {}
    problems = []
    for line, row in rows:
        gateway_id, tag = row["gateway_id"], row["tag"].strip()
        entry = maps.setdefault(
            gateway_id, Entry(kind, f"line {line}", {"gateway_id": gateway_id, "tags": {}})
        )
        target: dict[str, Any] | None = {
            name: row[name] for name in ("channel", "unit") if row.get(name)
        } or None
        if target and row.get("states", "").strip():
            target["states"] = _states(row["states"])
        if tag in entry.document["tags"]:
            problems.append(InputProblem(f"line {line}", f"tag {tag!r} is stated again", "keep one"))
        entry.document["tags"][tag] = target
    return list(maps.values()), problems


def _states(text: str) -> dict[str, Any]:
    """Return `word=true;word=16` as a mapping; what is neither stays text, for the model to refuse."""
    pairs = (part.rpartition("=") for part in text.split(";") if part.strip())
    return {word.strip(): _state(value.strip()) for word, _, value in pairs}


def _state(text: str) -> bool | int | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        return text
