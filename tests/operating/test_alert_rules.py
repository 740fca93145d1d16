# SPDX-License-Identifier: Apache-2.0
"""The alert rules and the dashboard: promtool takes them, and they ask for metrics there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from support import monitoring

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "docs/monitoring"


def promtool(*arguments: str, directory: Path = MONITORING) -> subprocess.CompletedProcess[str]:
    program = monitoring.find_program("promtool")
    return subprocess.run(
        [program, *arguments], cwd=directory, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The files, to be broken."""
    return Path(shutil.copytree(MONITORING, tmp_path / "monitoring"))


def replace(path: Path, right: str, wrong: str) -> None:
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))


@pytest.mark.parametrize(
    "arguments",
    ["check rules rules.yaml", "test rules rules_test.yaml", "check config prometheus.yml"],
)
def test_promtool_finds_nothing(arguments: str) -> None:
    done = promtool(*arguments.split())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "right", "wrong", "arguments"),
    [
        ("rules.yaml", "increase(", "increased(", "check rules rules.yaml"),
        ("rules.yaml", "expr:", "expression:", "check rules rules.yaml"),
        ("rules.yaml", "0.9 *", "1.9 *", "test rules rules_test.yaml"),
        ("rules.yaml", "bytes_fallback > 0", "bytes_fallback > 1e9", "test rules rules_test.yaml"),
        ("rules.yaml", "failures_total[15m]) > 0", "failures_total[15m]) >= 0",
         "test rules rules_test.yaml"),
        ("prometheus.yml", "scrape_configs", "scrape_config", "check config prometheus.yml"),
    ],
)  # fmt: skip
def test_promtool_finds_a_mistake(
    name: str, right: str, wrong: str, arguments: str, copied: Path
) -> None:
    replace(copied / name, right, wrong)
    assert promtool(*arguments.split(), directory=copied).returncode != 0


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    (group,) = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    tests = yaml.safe_load((MONITORING / "rules_test.yaml").read_text())["tests"]
    alerts = {rule["alert"] for rule in group["rules"]}
    for fires in (True, False):
        tested = {
            test["alertname"]
            for unit in tests
            for test in unit["alert_rule_test"]
            if bool(test.get("exp_alerts")) is fires
        }
        assert tested == alerts


def unknown_metrics(text: str) -> list[str]:
    return sorted(monitoring.asked(text) - monitoring.declared(ROOT))


@pytest.mark.parametrize("name", ["rules.yaml", "dashboard.json"])
def test_only_metrics_that_there_are_are_asked_for(name: str) -> None:
    text = (MONITORING / name).read_text()
    assert monitoring.asked(text)
    assert unknown_metrics(text) == []


def test_a_metric_that_there_is_not_is_seen() -> None:
    assert unknown_metrics("x > :tensorflow:core:model_pool:nothing") == [
        ":tensorflow:core:model_pool:nothing"
    ]
    assert unknown_metrics("rate(tf_model_pool_pool_nothing[5m])") == ["tf_model_pool_pool_nothing"]


def test_the_dashboard_can_be_imported_anywhere() -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    variables = [one["name"] for one in dashboard["templating"]["list"]]
    assert variables == ["datasource", "job", "instance"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        assert panel["description"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        places = [panel["gridPos"][key] for key in ("x", "w")]
        assert sum(places) <= 24
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= {
                "job",
                "instance",
                "__rate_interval",
            }
