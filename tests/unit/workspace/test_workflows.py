"""The GitHub workflows: pinned actions, few rights, and every folder of tests in a job."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").iterdir()}
JOBS = [
    pytest.param(job, id=f"{name}-{job_name}")
    for name, workflow in WORKFLOWS.items()
    for job_name, job in workflow["jobs"].items()
]


@pytest.mark.parametrize("job", JOBS)
def test_action_is_pinned_by_commit(job):
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)] == []


@pytest.mark.parametrize("job", JOBS)
def test_job_ends_in_time_and_keeps_no_credential_in_the_checkout(job):
    assert job["timeout-minutes"] <= 60
    checkouts = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False]


def test_only_a_release_may_write():
    assert all(workflow["permissions"] == {"contents": "read"} for workflow in WORKFLOWS.values())
    writers = [
        name
        for name, workflow in WORKFLOWS.items()
        for job in workflow["jobs"].values()
        if "write" in job.get("permissions", {}).values()
    ]
    assert set(writers) == {"release"}


def test_every_folder_of_tests_is_in_a_job():
    matrix = WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]["include"]
    named = {
        word.split("/")[1] for row in matrix for word in row["tests"].split() if word.startswith("tests/")
    }
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("test_*.py")}
    assert folders <= named


def test_every_image_is_published():
    released = set(WORKFLOWS["release"]["jobs"]["image"]["strategy"]["matrix"]["service"])
    targets = set(
        re.findall(r"^FROM service AS ([a-z]+)$", (ROOT / "deploy/images/Dockerfile").read_text(), re.M)
    )
    assert released == targets
