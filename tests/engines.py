"""Storage engines under test.

`ESP_TEST_ENGINES` lists them (`postgres`, `timescale`, or both, separated by a comma). The default is every
engine that is installed. Without `timescale` in the list, tests and the programs that they start behave as on
a machine without TimescaleDB.
"""

import os

from esp_stack.servers.postgres import ENGINE_VARIABLE, has_timescale

ENGINES = ("postgres", "timescale")


def engines() -> tuple[str, ...]:
    """Return the engines to test, those not installed left out."""
    wanted = [name.strip() for name in os.environ.get("ESP_TEST_ENGINES", ",".join(ENGINES)).split(",")]
    if unknown := set(wanted) - set(ENGINES):
        raise ValueError(f"ESP_TEST_ENGINES: {', '.join(sorted(unknown))} is none of {', '.join(ENGINES)}")
    if "timescale" not in wanted:
        os.environ[ENGINE_VARIABLE] = "postgres"
    return tuple(name for name in wanted if name == "postgres" or has_timescale())
