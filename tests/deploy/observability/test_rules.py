"""Rules and dashboards by themselves: promtool agrees, each alert has a test and a place in the runbook, and the
dashboards' files are what their source makes."""
import json
import re
import subprocess
import sys

import pytest
from clusters import ROOT
from prometheus import RULES

TESTS = ROOT / "tests" / "deploy" / "observability" / "alerts_test.yml"
ALERTS = re.findall(r"^ +- alert: (\w+)$", (RULES / "alerts.yml").read_text(), re.M)
DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))


def run(*command, cwd=ROOT):
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_rules_and_example():
    run("promtool", "check", "rules", *sorted(RULES.glob("*.yml")))
    run("promtool", "check", "config", "prometheus.yml", cwd=RULES.parent)


def test_each_alert_fires_and_is_silent_when_all_is_well():
    run("promtool", "test", "rules", TESTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_has_its_tests_and_its_page_of_the_runbook(alert):
    tests = TESTS.read_text()
    assert f"- name: {alert} fires" in tests
    assert f"{{alertname: {alert}, eval_time: 6h, exp_alerts: []}}" in tests
    rule = re.search(rf"- alert: {alert}\n(.*?)(?=\n      - alert:|\n  - name:|\Z)", (RULES / "alerts.yml").read_text(), re.S).group(1)
    assert re.search(r"severity: (page|ticket)\b", rule)
    assert f"runbook_url: docs/runbook.md#{alert.lower()}\n" in rule + "\n"
    page = re.search(rf"^### {alert}\n(.*?)(?=^##|\Z)", (ROOT / "docs" / "runbook.md").read_text(), re.M | re.S)
    assert page, "no '### name' in docs/runbook.md"
    for part in ("Means", "See", "Do"):
        assert f"**{part}**" in page.group(1)


def test_dashboards_are_as_their_source_makes_them():
    run(sys.executable, ROOT / "tools" / "grafana" / "dashboards.py", "--check")


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_grafana_knows_each_key_of_the_dashboard(path):
    """Reads it with Grafana's own model of a dashboard and writes it again: what gets lost is no key of Grafana's."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard
    register_default_plugins()
    ours = json.loads(path.read_text())
    theirs = json.loads(json.dumps(Dashboard.from_json(json.loads(path.read_text())), cls=JSONEncoder))
    assert not list(lost(ours, theirs))
    assert len({p["id"] for p in ours["panels"]}) == len(ours["panels"])
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in ours["panels"])


def lost(ours, theirs, at=""):
    if isinstance(ours, dict):
        for key, value in ours.items():
            if key not in (theirs or {}):
                if value not in (None, "", False, [], {}):
                    yield f"{at}.{key}"
            else:
                yield from lost(value, theirs[key], f"{at}.{key}")
    elif isinstance(ours, list):
        for i, (a, b) in enumerate(zip(ours, theirs)):
            yield from lost(a, b, f"{at}[{i}]")
