import charts
from charts import Object, component, name, pod
from esp_common.topology import SERVICES

HOOK = "helm.sh/hook"


def _hooks(objects: list[Object]) -> list[Object]:
    return [found for found in objects if HOOK in found["metadata"].get("annotations", {})]


def _weight(found: Object) -> int:
    return int(found["metadata"]["annotations"][f"{HOOK}-weight"])


def test_migrations_run_before_the_rest_of_an_installation_and_of_an_upgrade(objects: list[Object]) -> None:
    for found in _hooks(objects):
        assert found["metadata"]["annotations"][HOOK] == "pre-install,pre-upgrade"
    for job in charts.of_kind(objects, "Job"):
        assert job in _hooks(objects), name(job)


def test_what_a_migration_needs_is_there_before_it(objects: list[Object]) -> None:
    hooks = _hooks(objects)
    for job in charts.of_kind(hooks, "Job"):
        account = charts.named(hooks, "ServiceAccount", pod(job)["serviceAccountName"])
        assert _weight(account) < _weight(job)
        labels = job["spec"]["template"]["metadata"]["labels"]
        policies = [
            policy
            for policy in charts.of_kind(hooks, "NetworkPolicy")
            if charts.selects(policy["spec"]["podSelector"], labels)
        ]
        assert [policy for policy in policies if _weight(policy) < _weight(job)], name(job)


def test_failed_migration_is_kept_to_be_read_and_ends_by_itself(objects: list[Object]) -> None:
    for job in charts.of_kind(objects, "Job"):
        delete = job["metadata"]["annotations"][f"{HOOK}-delete-policy"]
        assert delete == "before-hook-creation,hook-succeeded"
        assert job["spec"]["activeDeadlineSeconds"] > 0
        assert pod(job)["restartPolicy"] == "Never"


def test_ingest_migrates_first_because_others_read_its_views() -> None:
    jobs = [
        job
        for rendering in charts.services()
        if rendering.name.endswith("-default")
        for job in charts.of_kind(rendering.objects(), "Job")
    ]
    in_order = [name(job) for job in sorted(jobs, key=_weight)]
    assert in_order[0] == "esp-ingest-migrate"
    assert {component(job) for job in jobs} == {"migrate"}
    assert len({_weight(job) for job in jobs}) == len(SERVICES)
