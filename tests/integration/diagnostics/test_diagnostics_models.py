"""Models of pumps' healthy past: made when there is enough of it, kept by version, and judged by."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pytest
from esp_common import topology
from esp_common.contracts import arrow
from esp_common.contracts.channels import CHANNEL_INDEX
from esp_common.contracts.events import event_headers
from esp_common.contracts.readings import empty_readings
from esp_common.database import create_pool
from esp_common.messaging import Publisher
from esp_diagnostics.app import run_worker
from esp_diagnostics.detection.anomaly import Detector
from esp_diagnostics.monitoring import backlog
from esp_diagnostics.monitoring.rules import shipped_text
from esp_diagnostics.monitoring.training import Trainer
from esp_diagnostics.pumps.registry import Nameplates
from esp_diagnostics.settings import DiagnosticsSettings
from esp_stack.programs import free_port
from waiting import until

pytestmark = pytest.mark.timeout(400)

ENOUGH = timedelta(hours=25)
"""A pump that never stopped takes a day."""

LOW_PRIORITY_S = 120
"""What training may take on a busy machine: its process has a low priority."""

STEP = timedelta(seconds=10)
NOISE = {
    "intake_pressure_psi": 5.0,
    "discharge_pressure_psi": 8.0,
    "motor_current_a": 0.2,
    "motor_temp_c": 0.5,
}
LEVEL = {
    "intake_pressure_psi": 900.0,
    "discharge_pressure_psi": 3000.0,
    "motor_current_a": 40.0,
    "motor_temp_c": 110.0,
    "intake_temp_c": 80.0,
    "frequency_hz": 50.0,
}


def healthy(count: int, seed: int = 1, **moved: float) -> dict[str, Any]:
    """Return channels (count,) of a pump at work, each `moved` by so much."""
    random = np.random.default_rng(seed)
    return {
        name: level + moved.get(name, 0.0) + random.normal(0.0, NOISE.get(name, 0.0), count)
        for name, level in LEVEL.items()
    }


async def live_through(fleet: Any, pump_id: str, span: timedelta, seed: int = 1) -> datetime:
    """Store a minute's reading for each minute of `span` up to half an hour ago; return the end."""
    end = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=30)
    await fleet.store(pump_id, end - span, healthy(round(span.total_seconds() / 60), seed))
    return end


async def attempt(fleet: Any, pump_id: str) -> tuple[str, str | None, float | None]:
    """Return outcome, reason and share of the last attempt to train a pump."""
    query = "SELECT outcome, reason, share FROM diagnostics.trainings WHERE pump_id = $1"
    [row] = await fleet.rows(query, pump_id)
    return tuple(row)


async def versions(fleet: Any, pump_id: str) -> dict[int, bool]:
    """Return the versions of a pump's model, and which is active."""
    rows = await fleet.rows("SELECT version, active FROM diagnostics.models WHERE pump_id = $1", pump_id)
    return {row["version"]: row["active"] for row in rows}


async def suffer(fleet: Any, pump_id: str, onset: datetime) -> None:
    """Have something been found of a pump that is not over."""
    await fleet.rows(
        "INSERT INTO diagnostics.findings (finding_id, pump_id, field_id, condition, kind, severity,"
        " peak_severity, confidence, onset, raised_at, rule_version) VALUES (gen_random_uuid(), $1, 'north',"
        " 'pump_wear', 'tree', 'low', 'low', 0.9, $2, $2, '1')",
        pump_id,
        onset,
    )


@pytest.fixture(scope="class")
async def worker(diagnostics_settings: DiagnosticsSettings, running: Any) -> AsyncIterator[None]:
    """A worker that trains soon."""
    often = {"training_check_s": 0.3, "training_retry_s": 0.3}
    update = {"metrics_port": free_port(), "replay_new_s": 0, **often}
    with pytest.MonkeyPatch.context() as patch:
        # These tests announce readings that the store does not have, where a backlog would be read from.
        patch.setattr(backlog, "MAX_LIVE_READINGS", 100_000)
        async with running(run_worker, diagnostics_settings.model_copy(update=update)):
            yield


@pytest.fixture(scope="module")
def rules() -> list[str]:
    """Rules of the tree, the last of which the trainer goes by."""
    return [shipped_text()]


@pytest.fixture(scope="module")
async def trainer(diagnostics_settings: DiagnosticsSettings, rules: list[str]) -> AsyncIterator[Trainer]:
    async with await create_pool(diagnostics_settings, role="test trainer", max_size=2) as pool:
        await Nameplates(pool, 3600).copy()
        with Trainer(pool, diagnostics_settings, lambda: rules[-1]) as trainer:
            yield trainer


async def test_pump_with_too_short_a_past_is_learning_and_says_how_much_is_there(
    fleet: Any, trainer: Trainer
) -> None:
    await live_through(fleet, "P-2", timedelta(hours=20))
    assert await trainer.train(["P-2"]) == {}
    outcome, reason, share = await attempt(fleet, "P-2")
    assert (outcome, await versions(fleet, "P-2")) == ("learning", {})
    assert share == pytest.approx(20 / 24, abs=0.01)
    assert reason == f"{24 * share:.1f} of 24 hours of healthy steady running"


async def test_pump_without_readings_is_learning(fleet: Any, trainer: Trainer) -> None:
    assert await trainer.train(["P-6"]) == {}
    assert await attempt(fleet, "P-6") == ("learning", "no readings yet", 0.0)


async def test_model_is_kept_when_no_newer_can_be_made_and_replaced_when_one_can(
    fleet: Any, trainer: Trainer, rules: list[str]
) -> None:
    end = await live_through(fleet, "P-3", ENOUGH)
    made = await trainer.train(["P-3"])
    assert Detector.from_bytes(made["P-3"]).trained_to_us <= end.timestamp() * 1e6
    assert await versions(fleet, "P-3") == {1: True}
    assert await attempt(fleet, "P-3") == ("trained", None, 1.0)

    rules.append("no: rules")
    assert await trainer.train(["P-3"]) == {}
    rules.pop()
    outcome, reason, _ = await attempt(fleet, "P-3")
    assert (outcome, await versions(fleet, "P-3")) == ("failed", {1: True})
    assert "RulesInvalid" in str(reason)

    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    made = await trainer.train(["P-3", "P-6"])  # in another process, one after the other
    assert made.keys() == {"P-3"}
    assert await versions(fleet, "P-3") == {1: False, 2: True}
    assert (await attempt(fleet, "P-6"))[0] == "learning"

    await suffer(fleet, "P-3", end - timedelta(hours=12))
    assert await trainer.train(["P-3"]) == {}
    outcome, _, share = await attempt(fleet, "P-3")
    assert (outcome, await versions(fleet, "P-3")) == ("learning", {1: False, 2: True})
    assert share == pytest.approx((25 - 12 - 1) / 24, abs=0.01)


class TestWorker:
    """The worker trains the pumps that it judges, when they are due, and judges by what comes of it."""

    @pytest.fixture
    async def send(self, vhost: Any) -> AsyncIterator[Any]:
        async with Publisher(vhost.url_for("ingest")) as publisher:

            async def send(start: datetime, channels: dict[str, Any]) -> datetime:
                """Have readings of P-1 accepted, every ten seconds from `start` on; return the next time."""
                count = len(channels["frequency_hz"])
                made = empty_readings(count)
                made.pump_id[:], made.running[:] = "P-1", True
                made.time_us[:] = [round((start + n * STEP).timestamp() * 1e6) for n in range(count)]
                for name, values in channels.items():
                    made.values[:, CHANNEL_INDEX[name]] = values
                headers = {
                    topology.PARTITION_HEADER: str(topology.partition("P-1")),
                    **event_headers("telemetry.accepted", "ingest", "telemetry.north"),
                }
                await publisher.publish(
                    topology.TELEMETRY,
                    "telemetry.north",
                    arrow.encode(made),
                    headers=headers,
                    content_type=arrow.MEDIA_TYPE,
                )
                return start + count * STEP

            yield send

    async def judged(self, fleet: Any, through: datetime) -> dict[str, Any]:
        """Return the detector's verdict on P-1 once its readings before a time are judged."""
        query = "SELECT anomaly FROM diagnostics.pump_status WHERE pump_id = 'P-1' AND time >= $1"
        rows = await until(lambda: fleet.rows(query, through - STEP), "the readings are judged")
        return dict(orjson.loads(rows[0]["anomaly"]))

    async def test_pump_that_learns_is_trained_when_its_past_suffices_and_then_judged(
        self, fleet: Any, worker: None, send: Any
    ) -> None:
        next_ = await send(datetime.now(UTC) - timedelta(minutes=29), healthy(3))
        assert (await self.judged(fleet, next_))["learning"]

        async def tried() -> bool:
            query = "SELECT outcome FROM diagnostics.trainings WHERE pump_id = 'P-1'"
            return [row["outcome"] for row in await fleet.rows(query)] == ["learning"]

        await until(tried, "it is tried in vain", LOW_PRIORITY_S)
        await live_through(fleet, "P-1", ENOUGH)
        await until(lambda: versions(fleet, "P-1"), "a model is made", LOW_PRIORITY_S)

        verdict = {"learning": True}
        async with asyncio.timeout(LOW_PRIORITY_S):
            while verdict["learning"]:  # until the worker has taken the model over
                next_ = await send(next_, healthy(6))
                verdict = await self.judged(fleet, next_)
        assert not verdict["alarmed"]
        assert verdict["score"] < verdict["threshold"]
        next_ = await send(next_, healthy(60, seed=8, motor_temp_c=40.0))
        verdict = await self.judged(fleet, next_)
        assert verdict["alarmed"]
        assert verdict["contributions"][0]["feature"] == "winding_rise"

    async def test_model_that_is_old_is_made_anew(self, fleet: Any, worker: None) -> None:
        assert await versions(fleet, "P-1") == {1: True}
        await fleet.rows(
            "UPDATE diagnostics.trainings SET tried_at = tried_at - INTERVAL '25 hours' WHERE pump_id = 'P-1'"
        )

        async def renewed() -> bool:
            return await versions(fleet, "P-1") == {1: False, 2: True}

        await until(renewed, "a second version is made", LOW_PRIORITY_S)
