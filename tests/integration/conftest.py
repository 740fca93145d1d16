# SPDX-License-Identifier: Apache-2.0
"""What the integration tests share: models, checkpoints, interpreters, the running children.

They run in an environment that holds the patched wheel. `TF_MODEL_POOL_STOCK_PYTHON` names the
interpreter of an environment that holds the released wheel of the same TensorFlow, and
`TF_MODEL_POOL_PRELOAD_SITE` a directory that holds the distribution for that one.
`TF_MODEL_POOL_PATCHED_PYTHON` names the patched wheel's interpreter if that is not the one which
runs the tests: the wheel is for another machine.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.children import Places, ScenarioRunner, run_to_end
from support.modes import child_environment
from support.native import build_probe

_STOCK = "TF_MODEL_POOL_STOCK_PYTHON"
_PRELOAD = "TF_MODEL_POOL_PRELOAD_SITE"
_PATCHED = "TF_MODEL_POOL_PATCHED_PYTHON"


@pytest.fixture(scope="session")
def tensorflow_directory() -> Path:
    """The installed, patched `tensorflow` package. Fails where it is missing or not patched."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        pytest.fail(f"{sys.executable} has no TensorFlow: run `./build.sh test`")
    directory = Path(spec.origin).parent
    if not (directory / "libtf_model_pool.so").is_file():
        pytest.fail(f"{directory} is not the patched TensorFlow: run `./build.sh test`")
    return directory


@pytest.fixture(scope="session")
def patched_python(request: pytest.FixtureRequest) -> Path:
    """The interpreter with the patched TensorFlow: this one, unless another is named."""
    if _PATCHED in os.environ:
        return Path(os.environ[_PATCHED])
    request.getfixturevalue("tensorflow_directory")
    return Path(sys.executable)


@pytest.fixture(scope="session")
def stock_python() -> Path:
    """The interpreter with the released TensorFlow. Fails where it is missing or patched."""
    value = os.environ.get(_STOCK, "")
    if not value:
        pytest.fail(
            f"{_STOCK} is not set: it names the python of an environment with the released "
            "TensorFlow; `./build.sh test` sets it"
        )
    found = subprocess.run(
        [value, "-c", "import importlib.util as u; print(u.find_spec('tensorflow').origin)"],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode != 0:
        pytest.fail(f"{_STOCK}={value} has no TensorFlow: {found.stderr.strip()}")
    if (Path(found.stdout.strip()).parent / "libtf_model_pool.so").exists():
        pytest.fail(f"{_STOCK}={value} has the patched TensorFlow, not the released one")
    return Path(value)


@pytest.fixture(scope="session")
def preload_site() -> Path:
    """Where the distribution for an untouched TensorFlow is unpacked. Fails where it is not."""
    value = os.environ.get(_PRELOAD, "")
    if not (Path(value) / "tf_model_pool" / "libtf_model_pool_preload.so").is_file():
        pytest.fail(
            f"{_PRELOAD}={value} does not hold the distribution for an untouched TensorFlow; "
            "`./build.sh test` sets it"
        )
    return Path(value)


@pytest.fixture(scope="session")
def places(patched_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Models and checkpoints, written once per session."""
    root = tmp_path_factory.mktemp("integration")
    made = {"models": root / "models", "checkpoints": root / "checkpoints"}
    environment = {**child_environment("onednn"), "PYTHONPATH": str(Path(__file__).parents[1])}

    def make(what: str) -> None:
        # Written by one TensorFlow, read by all.
        run_to_end([sys.executable, "-m", f"support.{what}", str(made[what])], environment)

    with ThreadPoolExecutor(max_workers=len(made)) as executor:
        list(executor.map(make, made))
    return Places(
        models=made["models"],
        checkpoints=made["checkpoints"],
        scratch=root / "children",
        pythons={"patched": patched_python},
    )


@pytest.fixture(scope="session")
def runner(
    places: Places, stock_python: Path, request: pytest.FixtureRequest
) -> Iterator[ScenarioRunner]:
    """Runs scenarios; those of all selected tests start at once, as many as there are CPUs."""
    found = (getattr(getattr(i, "callspec", None), "params", {}) for i in request.session.items)
    cases = [params["case"] for params in found if "case" in params]
    all_places = dataclasses.replace(places, pythons={**places.pythons, "stock": stock_python})
    if any("preload" in case.pythons for case in cases):
        all_places = dataclasses.replace(
            all_places,
            pythons={**all_places.pythons, "preload": stock_python},
            preload_site=request.getfixturevalue("preload_site"),
        )
    scenario_runner = ScenarioRunner(all_places, workers=max(1, min(4, os.cpu_count() or 1)))
    for case in cases:
        for python in case.pythons:
            scenario_runner.start(case.group, case.mode, python)
    yield scenario_runner
    scenario_runner.close()


@pytest.fixture(scope="session")
def probe(tensorflow_directory: Path, repository: Path) -> Path:
    """`swap_probe`, compiled against the installed wheel's headers and libraries."""
    return build_probe("swap_probe", tensorflow_directory, repository / ".build" / "native_tests")
