"""The query API as a whole: it comes up, and lets in whom it should."""

from typing import Any


async def test_api_is_ready_once_it_knows_the_pumps(diagnostics_api: Any) -> None:
    checks = (await diagnostics_api.bare.get("/health/ready")).json()["checks"]
    assert checks == dict.fromkeys(("database", "broker", "events", "nameplates"), "ok")
    assert len(await diagnostics_api.rows("SELECT * FROM diagnostics.pumps WHERE removed_at IS NULL")) == 6
