"""The AsyncAPI documents: published as generated, valid, and complete."""

import json
from pathlib import Path

import pytest
from esp_common import tokens, topology
from esp_common.contracts import arrow
from esp_common.contracts.asyncapi import document
from esp_common.contracts.messages import ALERT_CHANGES, ARROW, BROADCASTS, MESSAGES
from esp_diagnostics.alerts.model import TransitionKind
from esp_diagnostics.alerts.platform import _CONDITIONS
from esp_diagnostics.monitoring.worker import CHANGES
from esp_ingest.asset_kinds import KINDS
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema

FOLDER = Path(__file__).parents[3] / "docs" / "api"
NAMES = {message.name for message in MESSAGES}


@pytest.mark.parametrize("service", topology.SERVICES)
def test_the_published_document_is_the_generated_one(service: str) -> None:
    published = json.loads((FOLDER / f"{service}.asyncapi.json").read_text())
    assert published == json.loads(json.dumps(document(service))), "run `make asyncapi`"


@pytest.mark.parametrize("service", topology.SERVICES)
def test_the_document_is_valid_and_its_references_lead_somewhere(service: str) -> None:
    found = document(service)
    ApplicationSchema.model_validate(found)
    for operation in found["operations"].values():
        channel = found["channels"][operation["channel"]["$ref"].removeprefix("#/channels/")]
        for message in operation["messages"]:
            assert message["$ref"].rpartition("/")[2] in channel["messages"]
    for channel in found["channels"].values():
        for reference in channel["messages"].values():
            name = reference["$ref"].removeprefix("#/components/messages/")
            assert found["components"]["messages"][name]["payload"] is not None


def test_every_work_queue_is_received_from_by_its_service() -> None:
    for queue in topology.QUEUES:
        keeps = queue.name.endswith(".dead") or queue.name == topology.UNROUTED_QUEUE
        operations = document(queue.service)["operations"]
        assert keeps or operations[f"receive.{queue.name}"]["messages"], queue.name


def test_the_catalogue_has_every_event_that_code_names() -> None:
    assert set(ALERT_CHANGES) == set(TransitionKind)
    assert ARROW == arrow.MEDIA_TYPE
    assert {*_CONDITIONS, *tokens.EVENTS, *(kind.event_type for kind in KINDS.values())} <= NAMES
    assert BROADCASTS["diagnostics"] == (*CHANGES, *tokens.EVENTS)


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("#", True),
        ("archive.#", True),
        ("archive.*", True),
        ("archive.verified", True),
        ("*", False),
        ("archive.verified.#", True),
        ("archive.verified.*", False),
        ("backup.#", False),
    ],
)
def test_a_pattern_takes_the_keys_that_the_broker_would(pattern: str, taken: bool) -> None:
    verified = next(message for message in MESSAGES if message.name == "archive.verified")
    assert verified.matches(pattern) is taken
