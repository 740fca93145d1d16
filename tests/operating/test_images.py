# SPDX-License-Identifier: Apache-2.0
"""The Dockerfiles: they copy what is there and is sent, and start what the documents say."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

import tf_model_pool
from support import checkouts
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


#: Docker's patterns: those of Go's filepath.Match, and `**` for any number of directories.
_WILDCARDS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _matches(pattern: str, path: str) -> bool:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.strip("/"))
    expression = "".join(_WILDCARDS.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(expression, path) is not None


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a path of the checkout into the build.

    The last pattern that matches the path or a directory above it decides.
    """
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        if any(_matches(pattern, str(one)) for one in (Path(path), *Path(path).parents)):
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
            path = _filled_in(path, arguments)
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


def _filled_in(text: str, arguments: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: arguments.get(match[1], ""), text)


def stages(text: str) -> list[list[dict[str, Any]]]:
    """The instructions of each stage; what stands before the first FROM is of none."""
    found: list[list[dict[str, Any]]] = []
    for one in instructions(text):
        if one["instruction"] == "FROM":
            found.append([])
        if found:
            found[-1].append(one)
    return found


def last_stage(text: str) -> list[dict[str, Any]]:
    return stages(text)[-1]


def copy_as_docker(stage: list[dict[str, Any]], context: Path, image: Path) -> None:
    """What a stage copies of `context`, as far as .dockerignore lets it, below `image`."""
    arguments: dict[str, str] = {}
    for one in stage:
        if one["instruction"] == "ARG":
            key, _, arguments[key] = one["value"].partition("=")
        if one["instruction"] != "COPY" or one["value"].startswith("--from="):
            continue
        *sources, target = _filled_in(one["value"], arguments).split()
        for source in sources:
            found = sorted(context.glob(source))
            assert found, f"no file: {source}"
            for path in found:
                # A directory's contents, and a file by its name.
                start = path if path.is_dir() else path.parent
                for file in path.rglob("*") if path.is_dir() else (path,):
                    if file.is_file() and is_sent(str(file.relative_to(context))):
                        goal = image / target.strip("/") / file.relative_to(start)
                        goal.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(file, goal)


def make_serving_image(text: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs what the stage of the checkout runs of ours, on what it copies, without packages."""
    (stage,) = (one for one in stages(text) if one[0]["value"].endswith(" AS patched"))
    copy_as_docker(stage, ROOT, directory)
    checkouts.make_serving(directory / "serving", "patch")
    python = directory / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    (command,) = (
        one["value"]
        for one in stage
        if one["instruction"] == "RUN" and one["value"].startswith("/project/")
    )
    return subprocess.run(
        ["sh", "-c", re.sub(r"(?<=\s)/|^/", f"{directory}/", command)],
        env={"PATH": os.environ["PATH"], "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )


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


def test_the_checkout_is_patched_with_what_serving_s_image_copies(tmp_path: Path) -> None:
    done = make_serving_image((ROOT / SERVING).read_text(), tmp_path)
    assert done.returncode == 0, done.stderr
    patch = tmp_path / "serving/third_party/tf_model_pool/tensorflow.patch"
    assert "+++ b/tf_allocator/BUILD\n" in patch.read_text()


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("COPY patches /project/patches\n", "patches"),
        ("COPY python /project/python\n", "tf_model_pool_build"),
        ("COPY tf_allocator /project/tf_allocator\n", "/tf_allocator/binary/hooks.def"),
    ],
)
def test_what_serving_s_image_does_not_copy_is_named(
    line: str, missing: str, tmp_path: Path
) -> None:
    text = (ROOT / SERVING).read_text()
    assert line in text
    done = make_serving_image(text.replace(line, ""), tmp_path)
    assert done.returncode != 0
    assert missing in done.stderr
    assert "Traceback" not in done.stderr


def test_the_python_image_gets_a_wheel_and_the_server_that_its_entry_point_names(
    tmp_path: Path,
) -> None:
    # GIVEN a checkout that has made wheels of two releases, and the library for another wheel
    text = (ROOT / PYTHON).read_text()
    context, image = tmp_path / "context", tmp_path / "image"
    shutil.copytree(ROOT / "docs/examples", context / "docs/examples")
    wheel = "tensorflow_cpu-2.21.0+modelpool.0.1.0-cp311-cp311-manylinux_2_35_x86_64.whl"
    for name in (wheel, wheel.replace("2.21", "2.20"), "tf_model_pool-0.1.0-cp311-cp311-x.whl"):
        checkouts.write_tree(context / "dist", {name: ""})
    # WHEN both stages copy
    for stage in stages(text):
        copy_as_docker(stage, context, image)
    # THEN pip gets one wheel, and the server starts without the rest of the checkout
    assert [path.name for path in (image / "wheels").iterdir()] == [wheel]
    (entry,) = (x["value"] for x in last_stage(text) if x["instruction"] == "ENTRYPOINT")
    words = json.loads(entry)
    app = words[words.index("--app-dir") + 1]
    module, _, name = words[words.index("--app-dir") + 2].partition(":")
    subprocess.run(
        [sys.executable, "-c", f"import {module}; {module}.{name}.routes"],
        cwd=f"{image}{app}",
        env={**os.environ, "PYTHONPATH": str(Path(tf_model_pool.__file__).parents[1])},
        check=True,
    )


def test_the_wheel_is_sent_and_other_files_of_dist_are_not() -> None:
    assert is_sent("dist/tensorflow_cpu-2.21.0+modelpool-cp311-cp311-linux_x86_64.whl")
    assert not is_sent("dist/tf_model_pool-0.1.0.whl")
    assert not is_sent("tests/conftest.py")
    assert not is_sent("dist/tensorflow/x.whl")


def test_what_python_compiled_is_not_sent() -> None:
    assert is_sent("python/tf_model_pool_build/series/tree.py")
    assert not is_sent("python/tf_model_pool_build/series/__pycache__/tree.cpython-311.pyc")


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
