"""The scrape configuration and the rules: what promtool says of them, and what a real Prometheus
makes of them.
"""

import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
NEEDS_GPU = {"instance:csplade_device_memory:ratio"}  # 0 / 0 without one


def rules(file: str, kind: str) -> dict[str, dict]:
    groups = yaml.safe_load((FOLDER / file).read_text())["groups"]
    return {rule[kind]: rule for group in groups for rule in group["rules"]}


ALERTS, RECORDS = rules("alerts.yml", "alert"), rules("rules.yml", "record")


def run(*command: object) -> str:
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_configuration_and_rules(promtool):
    shown = run(promtool, "check", "config", "prometheus.yml")
    assert f"{len(RECORDS)} rules found" in shown
    assert f"{len(ALERTS)} rules found" in shown


def test_every_alert_fires_in_the_unit_tests_of_the_rules(promtool):
    assert "SUCCESS" in run(promtool, "test", "rules", "rules_test.yml")
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    fired = {
        test["alertname"]
        for case in tests
        for test in case["alert_rule_test"]
        if test["exp_alerts"]
    }
    silent = {
        test["alertname"]
        for case in tests
        for test in case["alert_rule_test"]
        if not test["exp_alerts"]
    }
    assert fired == ALERTS.keys()
    assert silent >= {name for name, rule in ALERTS.items() if "for" in rule}


def test_every_alert_has_a_severity_and_a_page_to_read():
    headings = {
        re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-"))
        for heading in re.findall(
            r"^#+ (.+)$",
            (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("page", "warn")
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (page, anchor) == ("docs/operations.md", name.lower())
        assert anchor in headings, f"docs/operations.md has no heading {name}"


def test_prometheus_scrapes_the_server(prometheus, example_server, eventually):
    assert eventually({"requests": 'csplade_requests_total{method="Search", code="OK"}'}) == []
    assert prometheus.values('up{job="csplade"}') == [1.0]
    active = prometheus.ask("targets")["data"]["activeTargets"]
    assert [target["labels"]["instance"] for target in active] == [example_server.metrics_address]
    assert prometheus.values('csplade_index_documents{shard="1"}') == [187.0]
    documents = sum(prometheus.values("csplade_index_documents"))
    assert documents == len((ROOT / "examples" / "corpus.jsonl").read_text().splitlines())


def test_every_recording_rule_gives_data(prometheus, eventually):
    assert eventually({name: name for name in RECORDS.keys() - NEEDS_GPU}) == []
    for name in NEEDS_GPU:
        assert prometheus.ask("query", query=name)["status"] == "success"


def test_the_rules_run_without_errors_and_no_alert_is_about_a_healthy_server(
    prometheus, eventually
):
    assert eventually({"evaluated": "job_method:csplade_request_seconds:p99_5m"}) == []
    groups = prometheus.ask("rules")["data"]["groups"]
    states = {
        rule["name"]: (rule["health"], rule.get("state"))
        for group in groups
        for rule in group["rules"]
    }
    assert {name: health for name, (health, _) in states.items() if health != "ok"} == {}
    assert states["CspladeDown"] == ("ok", "inactive")
    assert states["CspladeVerifyMismatch"] == ("ok", "inactive")
