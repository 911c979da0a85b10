"""Batches: how fast the worker stores readings that arrive a thousand or a hundred to a message.

Held against bare asyncpg that writes the same rows into the same table, encoded beforehand, over one
connection: COPY into a temporary table and INSERT ON CONFLICT, a transaction for each batch.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from bed import Bed, Deployment
from benchmark import Size, main
from ceilings import copy_bodies, copy_rate
from drain import drain_rate
from report import Figure
from workload import arrow_messages, json_messages, live_readings


def batches(bed: Bed, size: Size) -> Iterator[Figure]:
    """Measure both forms of batches on every engine."""
    for engine in bed.engines:
        yield from _on_engine(bed.deploy(engine), size)


def _on_engine(deployment: Deployment, size: Size) -> Iterator[Figure]:
    readings = live_readings(size.readings)
    fewer = readings.take(np.arange(size.readings // 2))
    deployment.ensure_partitions(readings)
    bodies = {rows: copy_bodies(readings, deployment.pump_numbers(), rows) for rows in (100, 1000, 5000)}
    messages = {"arrow": arrow_messages(readings, 1000), "json": json_messages(fewer, 100)}
    worker = deployment.ingest("worker")
    rates = defaultdict[object, list[float]](list)
    for _ in range(size.rounds):
        for rows in (1000, 100, 5000):
            deployment.forget()
            rates[rows].append(copy_rate(deployment.url("esp_ingest"), bodies[rows], len(readings)))
        rates["arrow"].append(drain_rate(deployment, worker, messages["arrow"], len(readings)))
        rates["json"].append(drain_rate(deployment, worker, messages["json"], len(fewer)))
    arrow, json = f"{deployment.engine}: Arrow of 1,000", f"{deployment.engine}: JSON of 100"
    unit = "readings/s"
    yield Figure(arrow, rates["arrow"], unit, rates[1000], 0.7, note="COPY 1,000 a transaction")
    yield Figure(arrow, rates["arrow"], unit, rates[5000], note="COPY 5,000")
    yield Figure(json, rates["json"], unit, rates[1000], 0.5, note="COPY 1,000 a transaction")
    yield Figure(json, rates["json"], unit, rates[100], note="COPY 100")


if __name__ == "__main__":
    main(batches)
