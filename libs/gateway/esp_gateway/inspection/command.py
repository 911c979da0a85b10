"""`esp-gateway inspect`: propose a map for a file, or try a map on it."""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from esp_common.errors import InvalidInput

from esp_gateway.inspection.preview import preview
from esp_gateway.inspection.proposal import propose
from esp_gateway.mapping import FileMap, load_map


def inspect(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet file.")],
    map_path: Annotated[
        Path | None, typer.Option("--map", help="Try this map instead of proposing one.")
    ] = None,
    assets: Annotated[
        Path | None, typer.Option(help="Assets with the gateway's tag map, to convert as the platform will.")
    ] = None,
    pump_id: Annotated[str | None, typer.Option("--pump", help="The pump whose file it is.")] = None,
    gateway_id: Annotated[str, typer.Option("--gateway", help="The gateway for the tag map.")] = "gw-demo",
    rows: Annotated[int, typer.Option(help="Readings to show.", min=0, max=1000)] = 5,
) -> None:
    """Propose a map for a file, and show its first readings as they would be stored; nothing is sent."""
    if map_path is None:
        proposal = propose(file, pump_id)
        print(proposal.text(gateway_id))
        file_map, tags = FileMap.model_validate(proposal.document), proposal.tags
    else:
        file_map, tags = load_map(map_path), {}
    if assets is not None:
        tags = _tags(assets, file_map.gateway_id or gateway_id)
    print("\n# The first readings, as they would be stored:")
    for line in preview(file, file_map, tags, rows):
        print(f"# {line}")


def _tags(path: Path, gateway_id: str) -> dict[str, dict[str, Any]]:
    """Return the tags of `gateway_id` in an assets file, those that are kept."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        (tags,) = (each["tags"] for each in document["tag_maps"] if each["gateway_id"] == gateway_id)
        return {tag: dict(target) for tag, target in tags.items() if target}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise InvalidInput(
            f"{path} has no tag map of gateway {gateway_id}", fix="give the file for esp-ingest assets import"
        ) from error
