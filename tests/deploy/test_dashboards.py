"""The dashboards: the JSON is what the code makes, and every panel shows something."""

import json
import re
import urllib.error
from pathlib import Path
from runpy import run_path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
NEEDS_RAY = re.compile(r"\bray_\w+")  # metrics of Ray itself: a single process has none


def queries_of(file: Path) -> dict[str, str]:
    """Panel and legend -> PromQL, with the variables filled in as Grafana does."""
    filled = {"$job": "csplade.*", "$__rate_interval": "30s"}
    found = {}
    for panel in json.loads(file.read_text())["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for name, value in filled.items():
                query = query.replace(name, value)
            found[f"{file.stem}: {panel['title']}: {target['legendFormat']}"] = query
    return found


QUERIES = {name: query for file in FILES for name, query in queries_of(file).items()}
OF_RAY = {name: query for name, query in QUERIES.items() if NEEDS_RAY.search(query)}


def test_the_files_are_what_the_code_makes():
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk is not installed")
    code = run_path(str(ROOT / "deploy" / "grafana" / "dashboards.py"))
    assert {file.stem for file in FILES} == code["DASHBOARDS"].keys()
    for file in FILES:
        assert file.read_text() == code["render"](file.stem), (
            f"{file.name} is old: run python deploy/grafana/dashboards.py"
        )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_dashboard_can_be_provisioned(file):
    board = json.loads(file.read_text())
    identifiers = [panel["id"] for panel in board["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    assert re.fullmatch(r"[a-z-]{8,40}", board["uid"])
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "job"}
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'job=~"$job"' in target["expr"], (
                f"{panel['title']} does not keep to the chosen job"
            )


def test_the_panels_that_need_ray_are_the_known_ones():
    panels = {name.split(": ")[1] for name in OF_RAY}
    assert panels == {
        "Replicas", "Nodes", "Healthy, and wanted by autoscaling", "Requests in replicas", "Calls",
        "Calls waiting for a replica", "Replicas started", "Time in replicas, p99",
    }  # fmt: skip


def test_every_panel_parses_and_shows_data_after_traffic(prometheus, eventually):
    wrong = {}
    for name, query in QUERIES.items():
        try:
            prometheus.ask("query", query=query)
        except urllib.error.HTTPError as error:
            wrong[name] = error.read().decode()
    assert wrong == {}
    assert eventually({name: query for name, query in QUERIES.items() if name not in OF_RAY}) == []
