"""Backup and restore: MB of database a second there and back, and what that makes of 10 GB; and a drill.

Held against copying the same files on the same disk: what a restore costs beyond that is fetching, decrypting
and checking. One cluster with archiving, Azurite beside it over https, encryption on.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from bed import Bed
from benchmark import Size, main
from report import Figure

# What tests of all kinds share lies one folder up, where only pytest looks by itself.
sys.path.append(str(Path(__file__).parents[1]))
from backup_site import Site, open_site
from esp_backup.recovery import Recovery
from esp_backup.store.cluster import Cluster

ROWS_A_READING = 10
EXTRAPOLATED_MB = 10_000
WITHIN_S = 3600
DRILL_S = 120
_FILL = """
INSERT INTO ingest.telemetry (pump_no, time, intake_pressure_psi, discharge_pressure_psi, motor_temp_c,
                              motor_current_a, frequency_hz, vibration_x_g, running)
SELECT 1, timestamptz '2020-01-01' + n * interval '10 seconds', 20000 + random() * 400,
       60000 + random() * 400, 2000 + random() * 20, 4000 + random() * 50, 5000, random() * 100, true
FROM generate_series(1, $1) AS n
"""


def restore(_: Bed, size: Size) -> Iterator[Figure]:
    """Yield the figures of one cluster, backed up, restored and drilled in each round."""
    yield from asyncio.run(_measure(size.readings * ROWS_A_READING, size.rounds))


async def _measure(rows: int, rounds: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="esp-bench-") as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101 - the cluster's account has to get in
        async with open_site(Path(folder) / "site") as site:
            # Rows of years ago, which no policy touches meanwhile.
            await site.rows(_FILL, rows)
            await site.rows("CHECKPOINT")
            return await _rounds(site, rounds)


async def _rounds(site: Site, rounds: int) -> list[Figure]:
    megabytes = await Cluster(site.settings.cluster_url).size() / 1e6
    backups, restores, copies, drills = [], [], [], []
    for number in range(rounds):
        began = perf_counter()
        await site.repository.backup("azure")
        backups.append(megabytes / (perf_counter() - began))
        target = site.settings.state_folder / f"round-{number}"
        recovery = Recovery(site.settings, site.work.account)
        restores.append((await recovery.restore(None, target, "azure")).megabytes_per_s)
        began = perf_counter()
        await asyncio.to_thread(shutil.copytree, target, target.with_suffix(".copy"))
        copies.append(megabytes / (perf_counter() - began))
        for done in (target, target.with_suffix(".copy")):
            shutil.rmtree(done)
        began = perf_counter()
        await site.work.drill()
        drills.append(perf_counter() - began)
    seconds = [EXTRAPOLATED_MB / rate for rate in restores]
    note = f"{megabytes:.0f} MB"
    return [
        Figure("full backup to blob storage", backups, "MB/s", note=note),
        Figure("restore with its log, against a copy of the files", restores, "MB/s", copies, note=note),
        Figure(
            "10 GB extrapolated from that",
            seconds,
            "s",
            target=WITHIN_S,
            of="measured",
            at_most=True,
            note=note,
        ),
        Figure("drill, with every check", drills, "s", target=DRILL_S, of="measured", at_most=True),
    ]


if __name__ == "__main__":
    main(restore)
