"""Draining a queue with the real worker, and making sure that nothing was lost on the way."""

from collections.abc import Sequence

from bed import Deployment, Role, wait_until
from workload import Message, publish


def drain_rate(deployment: Deployment, worker: Role, messages: Sequence[Message], readings: int) -> float:
    """Return the readings a second that `worker` moves from a full queue into an empty store."""
    deployment.forget()
    publish(deployment.bed.rabbitmq.url, messages)
    with worker.running():
        wait_until(lambda: deployment.taken() >= readings, f"{readings} readings drained", 300)
    if (stored := deployment.stored()) != readings:
        why = deployment.admin("SELECT reason, detail, count(*) FROM ingest.quarantine GROUP BY 1, 2 LIMIT 5")
        raise SystemExit(f"{readings} readings published, {stored} stored; quarantined: {why}")
    return deployment.rate()
