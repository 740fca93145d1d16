# SPDX-License-Identifier: Apache-2.0
"""The files that people copy are what the documents say: configuration, workflow."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tf_model_pool_build.releases import releases

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs/serving"
SERVING = ROOT / "docs/serving.md"
CONFIGS = ("models.config", "platform.config", "monitoring.config")
PARSER = ROOT / "tests/support/parse_serving_configs.py"
WORKFLOW = ROOT / ".github/workflows/releases.yml"


#: Mistakes in the examples: file, what stands there, what somebody might write.
MISTAKES = (
    ("models.config", "model_version_policy", "version_policy"),
    ("platform.config", "session_run_load_threadpool_index", "load_threadpool_index"),
    ("platform.config", "num_threads: 1", 'num_threads: "one"'),
    ("platform.config", "SavedModelBundleSourceAdapterConfig]", "Nothing]"),
    ("monitoring.config", "prometheus_config {", "prometheus_config"),
)


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the example files say by TensorFlow Serving's protos, then what each mistake gives."""
    directories = [EXAMPLES]
    for name, old, new in MISTAKES:
        directory = tmp_path_factory.mktemp("configs")
        for config in CONFIGS:
            shutil.copy(EXAMPLES / config, directory)
        text = (directory / name).read_text()
        assert old in text
        (directory / name).write_text(text.replace(old, new))
        directories.append(directory)
    result = subprocess.run(
        [sys.executable, str(PARSER), *map(str, directories)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return list(json.loads(result.stdout))


@pytest.fixture
def configs(parsed: list[Any]) -> dict[str, Any]:
    """What the example files say."""
    assert isinstance(parsed[0], dict), parsed[0]
    return parsed[0]


def test_the_models_are_served_one_version_at_a_time(configs: dict[str, Any]) -> None:
    (model,) = configs["models"]["model_config_list"]["config"]
    assert model["model_version_policy"] == {"latest": {"num_versions": 1}}
    assert model["model_platform"] in configs["platform"]["platform_configs"]


def test_loads_run_in_a_pool_of_their_own_that_all_versions_share(configs: dict[str, Any]) -> None:
    adapter = configs["platform"]["platform_configs"]["tensorflow"]["source_adapter_config"]
    assert adapter["@type"].endswith("/tensorflow.serving.SavedModelBundleSourceAdapterConfig")
    bundle = adapter["legacy_config"]
    pools = bundle["session_config"]["session_inter_op_thread_pool"]
    load = bundle["session_run_load_threadpool_index"]
    assert load == len(pools) - 1 == 1  # sessions run requests in pool 0
    assert pools[load]["num_threads"] == 1
    assert len({pool["global_name"] for pool in pools}) == 2
    assert bundle["enable_model_warmup"] is True


def test_prometheus_is_on_where_the_document_looks_for_it(configs: dict[str, Any]) -> None:
    prometheus = configs["monitoring"]["prometheus_config"]
    assert prometheus["enable"] is True
    assert prometheus["path"] in SERVING.read_text()


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_a_mistake_in_an_example_is_seen(number: int, parsed: list[Any]) -> None:
    assert isinstance(parsed[1 + number], str), f"{MISTAKES[number]} was accepted"


# The documents.


def test_the_document_has_every_tag_with_its_commit_and_series() -> None:
    lines = SERVING.read_text().splitlines()
    for pin in releases.SERVING_PINS:
        (row,) = [line for line in lines if line.startswith(f"| {pin.tag} |")]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1] == pin.commit[:11]
        assert cells[3] == f"v{releases.minor_of(pin.tensorflow)}"
        assert cells[5] == pin.bazel
        assert ("no release" in cells[2]) != pin.is_release
        if pin.is_release:
            assert pin.tensorflow in cells[2]


def test_the_document_asks_for_metrics_that_there_are() -> None:
    asked = set(re.findall(r":tensorflow:core:model_pool:(\w+)", SERVING.read_text()))
    declared = (ROOT / "tf_allocator/device/metrics.h").read_text()
    assert asked
    assert [name for name in sorted(asked) if f"| {name} " not in declared] == []


# The workflow. ci/lint.sh holds it against GitHub's schema.


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    """The one job of the workflow."""
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    assert list(jobs) == ["release"]
    return dict(jobs["release"])


def test_the_workflow_runs_every_supported_release(job: dict[str, Any]) -> None:
    matrix = job["strategy"]["matrix"]
    assert sorted(matrix["tensorflow"]) == sorted(one.version for one in releases.RELEASES)
    names = ("tensorflow", "python", "arch")
    runs = list(itertools.product(*(matrix[name] for name in names)))
    runs += [tuple(more[name] for name in names) for more in matrix["include"]]
    assert len(runs) == len(set(runs))
    assert {machine for _, _, machine in runs} == {"x86_64", "aarch64"}
    for version, python, machine in runs:
        # Raises for a wheel that was never released.
        releases.find_wheel(
            releases.find_release(version), None, f"cp{python.replace('.', '')}", machine
        )


def test_the_workflow_runs_scripts_and_options_that_exist(job: dict[str, Any]) -> None:
    run = "\n".join(step["run"] for step in job["steps"] if "run" in step)
    scripts = re.findall(r"\bci/[\w.-]+", run)
    assert {"ci/setup-debian.sh", "ci/release.sh"} <= set(scripts)
    for script in scripts:
        usage = subprocess.run(
            [ROOT / script, "-h"], check=True, capture_output=True, text=True
        ).stdout
        used = re.findall(rf"{re.escape(script)}((?:\s+--[\w-]+|\s+\"[^\"]*\"|\s*\\\n)*)", run)
        for option in re.findall(r"--[\w-]+", " ".join(used)):
            assert option in usage, f"{script} has no option {option}"


def test_every_step_is_left_out_where_another_release_is_wanted(job: dict[str, Any]) -> None:
    assert [step for step in job["steps"] if "env.WANTED == 'true'" not in step["if"]] == []


def test_the_series_are_tried_on_every_release_and_every_tag_of_serving() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/own-builds.yml").read_text())["jobs"]
    sources = jobs["tensorflow"]["strategy"]["matrix"]["tensorflow"]
    assert sorted(sources) == sorted(one.version for one in releases.TENSORFLOW_SOURCES)
    tags = jobs["serving"]["strategy"]["matrix"]["include"]
    assert {(row["tag"], row["bazel"]) for row in tags} == {
        (pin.tag, pin.bazel) for pin in releases.SERVING_PINS
    }


@pytest.mark.parametrize("workflow", sorted(WORKFLOW.parent.glob("*.yml")), ids=lambda p: p.name)
def test_actions_are_pinned_and_a_workflow_can_write_nothing(workflow: Path) -> None:
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}
    uses = re.findall(r"uses: (\S+)", workflow.read_text())
    assert uses
    assert [action for action in uses if not re.fullmatch(r"actions/[\w-]+@v\d+", action)] == []
