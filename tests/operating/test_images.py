# SPDX-License-Identifier: Apache-2.0
"""The Dockerfiles: they copy what is there and is sent, and start what the documents say."""

from __future__ import annotations

import fnmatch
import io
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

from tf_model_pool_build.releases import releases

ROOT = Path(__file__).resolve().parents[2]
SERVING = "docs/serving/Dockerfile"
PYTHON = "docs/python-server/Dockerfile"
IMAGES = (SERVING, PYTHON)
ENTRY_POINT = ROOT / "docs/serving/tf_serving_entrypoint.sh"

#: Of the Dockerfile reference.
INSTRUCTIONS = {
    "ADD", "ARG", "CMD", "COMMENT", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK",
    "LABEL", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
}  # fmt: skip


def instructions(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = DockerfileParser(fileobj=io.BytesIO(text.encode())).structure
    return found


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a path of the checkout into the build."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parents = [path, *(str(parent) for parent in Path(path).parents)]
        if any(fnmatch.fnmatch(one, pattern) for one in parents):
            sent = line.startswith("!")
    return sent


def problems(text: str) -> list[str]:
    """What cannot work in a Dockerfile, as far as that is seen without building it."""
    found = []
    stages: set[str] = set()
    arguments: dict[str, str] = {}
    for one in instructions(text):
        name, value = one["instruction"], one["value"]
        if name not in INSTRUCTIONS:
            found.append(f"no instruction: {name}")
        if name == "ARG":
            key, _, default = value.partition("=")
            arguments[key] = default
        for key in re.findall(r"\$\{(\w+)\}", value) if name in ("FROM", "COPY") else ():
            if key not in arguments:
                found.append(f"no argument: {key}")
        if name == "FROM" and " AS " in value:
            stages.add(value.split()[-1])
        if name in ("ENTRYPOINT", "CMD") and not isinstance(_json(value), list):
            found.append(f"no list of words: {value}")
        if name != "COPY":
            continue
        source, *more = value.split()[:-1]
        if source.startswith("--from="):
            if source.removeprefix("--from=") not in stages:
                found.append(f"no stage: {source}")
            continue
        for path in (source, *more):
            path = re.sub(r"\$\{(\w+)\}", lambda match: arguments.get(match[1], ""), path)
            # Wheels are made later.
            if not path.startswith("dist/") and not (ROOT / path).exists():
                found.append(f"no file: {path}")
            if not is_sent(path.replace("*", "x")):
                found.append(f"not sent: {path}")
    return found


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def last_stage(text: str) -> list[dict[str, Any]]:
    found = instructions(text)
    start = max(n for n, one in enumerate(found) if one["instruction"] == "FROM")
    return found[start:]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_can_be_built_from_what_is_there(image: str) -> None:
    assert problems((ROOT / image).read_text()) == []


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ("COPY build.sh", "COPY built.sh", ["no file: built.sh", "not sent: built.sh"]),
        ("COPY patches", "COPY tests", ["not sent: tests"]),
        ("--from=checked", "--from=check", ["no stage: --from=check"]),
        ("ARG RUNTIME", "ARG RUN_TIME", ["no argument: RUNTIME"]),
        ("EXPOSE", "EXPOSES", ["no instruction: EXPOSES"]),
        (
            'ENTRYPOINT ["/usr/bin/tf_serving_entrypoint.sh"]',
            "ENTRYPOINT ['/usr/bin/tf_serving_entrypoint.sh']",
            ["no list of words: ['/usr/bin/tf_serving_entrypoint.sh']"],
        ),
    ],
)
def test_a_mistake_in_a_dockerfile_is_seen(right: str, wrong: str, expected: list[str]) -> None:
    text = (ROOT / SERVING).read_text()
    assert right in text
    assert problems(text.replace(right, wrong)) == expected


def test_the_wheel_is_sent_and_other_files_of_dist_are_not() -> None:
    assert is_sent("dist/tensorflow_cpu-2.21.0+modelpool-cp311-cp311-linux_x86_64.whl")
    assert not is_sent("dist/tf_model_pool-0.1.0.whl")
    assert not is_sent("tests/conftest.py")


def test_serving_is_the_newest_tag_and_python_the_release_that_is_built_unless_told() -> None:
    assert f"ARG SERVING_TAG={releases.SERVING_PINS[0].tag}\n" in (ROOT / SERVING).read_text()
    default = re.search(r"TENSORFLOW_VERSION:-([\w.]+)\}", (ROOT / "build.sh").read_text())
    assert default is not None
    assert f"ARG TENSORFLOW_VERSION={default[1]}\n" in (ROOT / PYTHON).read_text()


def test_the_python_image_has_the_packages_that_the_example_was_tried_with() -> None:
    pins = set(re.findall(r"[\w]+==[\d.]+", (ROOT / PYTHON).read_text()))
    assert {pin.partition("==")[0] for pin in pins} == {"fastapi", "prometheus_client", "uvicorn"}
    project = (ROOT / "pyproject.toml").read_text()
    assert [pin for pin in sorted(pins) if f'"{pin}"' not in project] == []


def test_the_images_that_run_have_no_toolchain() -> None:
    for image in IMAGES:
        stage = last_stage((ROOT / image).read_text())
        assert "TOOLCHAIN" not in stage[0]["value"]
        text = " ".join(one["value"] for one in stage)
        assert re.findall(r"bazel|g\+\+|build-essential|git\b", text) == []


def test_serving_takes_the_place_of_its_image() -> None:
    stage = [(one["instruction"], one["value"]) for one in last_stage((ROOT / SERVING).read_text())]
    for wanted in (
        ("ENV", "MODEL_BASE_PATH=/models"),
        ("ENV", "MODEL_NAME=model"),
        ("EXPOSE", "8500 8501"),
        ("ENTRYPOINT", '["/usr/bin/tf_serving_entrypoint.sh"]'),
    ):
        assert wanted in stage


def test_the_entry_point_starts_the_server_as_serving_s_image_does(tmp_path: Path) -> None:
    server = tmp_path / "tensorflow_model_server"
    server.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    server.chmod(0o755)
    assert os.access(ENTRY_POINT, os.X_OK)
    done = subprocess.run(
        [ENTRY_POINT, "--enable_batching", "--a flag=with spaces"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "MODEL_NAME": "ctr", "MODEL_BASE_PATH": "/m"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "--port=8500",
        "--rest_api_port=8501",
        "--model_name=ctr",
        "--model_base_path=/m/ctr",
        "--enable_batching",
        "--a flag=with spaces",
    ]
