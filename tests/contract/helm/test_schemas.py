import charts
import helm_python
import jsonschema
import pytest
from charts import Object


def test_every_object_is_valid_in_the_oldest_and_the_newest_kubernetes(objects: list[Object]) -> None:
    for found in objects:
        charts.validate(found)


def test_every_object_is_in_the_release_namespace_and_says_what_it_is_part_of(objects: list[Object]) -> None:
    for found in objects:
        assert found["metadata"]["namespace"] == "esp", charts.name(found)
        assert found["metadata"]["labels"]["app.kubernetes.io/part-of"] == "esp", charts.name(found)


def test_no_two_objects_have_one_name(objects: list[Object]) -> None:
    names = [(found["kind"], charts.name(found)) for found in objects]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", ["Deployment", "ScaledObject", "HorizontalPodAutoscaler"])
def test_validation_refuses_a_field_that_does_not_exist(kind: str) -> None:
    everything = next(one for one in charts.services() if one.name == "ingest-everything")
    found = charts.of_kind(everything.objects(), kind)[0]
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        charts.validate({**found, "spec": {**found["spec"], "replica": 1}})


@pytest.mark.parametrize("chart", sorted(charts.HELM.glob("*/Chart.yaml")), ids=lambda file: file.parent.name)
def test_chart_passes_helm_lint(chart: charts.Path) -> None:
    values = {"service": "ingest"} if chart.parent == charts.SERVICE else {}
    report = helm_python.lint(chart.parent, values, strict=True)
    assert report["errors"] == []
    # 1 is advice; Helm has only one, to give the chart an icon.
    assert [message for message in report["messages"] if message["severity"] > 1] == []
