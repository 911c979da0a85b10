"""Who a command says that its operator is."""

import os
import subprocess
import sys

import pytest
from esp_common.cli import actor_id
from esp_common.errors import InvalidInput

UNKNOWN_UID = 54321


@pytest.fixture(autouse=True)
def nobody_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable names the actor."""
    for name in ("ESP_ACTOR", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)


def test_the_actor_is_whom_the_variable_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "app")
    monkeypatch.setenv("ESP_ACTOR", "ann@example.com")
    assert actor_id() == "cli:ann@example.com"


@pytest.mark.parametrize("empty", [None, "", " "])
def test_without_it_the_actor_is_the_login(empty: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    if empty is not None:
        monkeypatch.setenv("ESP_ACTOR", empty)
    assert actor_id() == "cli:ann"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a passwd entry")
def test_of_a_user_without_a_passwd_entry_it_is_the_number() -> None:
    script = "from esp_common.cli import actor_id; print(actor_id())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"]},
        user=UNKNOWN_UID,
        group=UNKNOWN_UID,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"cli:uid-{UNKNOWN_UID}\n"


@pytest.mark.parametrize("name", ["ann\nroot", "a" * 65, "\x1b[31mann"])
def test_a_name_that_would_garble_the_audit_trail_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESP_ACTOR", name)
    with pytest.raises(InvalidInput, match="ESP_ACTOR"):
        actor_id()
