# SPDX-License-Identifier: Apache-2.0
"""The library preloaded into the released TensorFlow: Python and native programs.

The checks of isolation run this way too, in test_scenarios.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.children import TESTS, Places, run_to_end
from support.isolation import weight_violations
from support.models import request
from support.modes import child_environment
from support.native import Report, run_probe

SAY = """
import json, sys
import tf_model_pool
reason = tf_model_pool.inactive_reason()
loaded = []
if sys.argv[1:]:
    import tensorflow as tf
    model = tf.saved_model.load(sys.argv[1])
    loaded = [tf_model_pool.pool_of(v) for v in model.signatures["serving_default"].variables]
pools = [] if reason else [pool.name for pool in tf_model_pool.pools()]
print(json.dumps({"reason": reason, "pools": pools, "variables": loaded}))
"""


class Untouched(NamedTuple):
    """The released TensorFlow with the distribution beside it."""

    python: Path
    site: Path

    @property
    def through(self) -> list[str]:
        """The command that starts a program with the library."""
        return [str(self.python), "-m", "tf_model_pool", "run", "--"]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return child_environment("onednn", {"PYTHONPATH": str(self.site), **(extra or {})})

    def say(self, *arguments: object, extra: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What a preloaded Python says of its pools, after loading the model in `arguments`."""
        command = [*self.through, str(self.python), "-c", SAY, *map(str, arguments)]
        said: dict[str, Any] = json.loads(run_to_end(command, self.environment(extra)))
        return said


@pytest.fixture
def untouched(stock_python: Path, preload_site: Path) -> Untouched:
    return Untouched(stock_python, preload_site)


def test_a_model_loaded_by_python_lies_in_its_pool(untouched: Untouched, places: Places) -> None:
    said = untouched.say(places.models / "ctr" / "1")
    assert said["reason"] is None
    assert said["pools"] == ["ctr/1"]
    assert set(said["variables"]) == {"ctr/1"}


def test_off_is_off(untouched: Untouched, places: Places) -> None:
    said = untouched.say(places.models / "ctr" / "1", extra={"TF_MODEL_POOL": "off"})
    assert said["reason"] == "TF_MODEL_POOL=off"
    assert set(said["variables"]) == {None}


def test_without_run_the_package_says_how_to_start_the_program(untouched: Untouched) -> None:
    output = run_to_end([str(untouched.python), "-W", "ignore", "-c", SAY], untouched.environment())
    reason = json.loads(output)["reason"]
    assert "the library was not preloaded" in reason
    assert "python -m tf_model_pool run -- CMD" in reason


def test_doctor_finds_the_pools_active(untouched: Untouched) -> None:
    doctor = [str(untouched.python), "-m", "tf_model_pool", "doctor", "--json"]
    # It fails where pools are not active.
    report = json.loads(run_to_end([*untouched.through, *doctor], untouched.environment()))
    assert report["healthy"]
    assert report["pools"]["preloaded"]
    assert not report["tensorflow"]["patched"]


def test_a_child_of_the_program_has_pools_too(untouched: Untouched, places: Places) -> None:
    child = f"exec {untouched.python} -c '{SAY}' {places.models / 'ctr' / '1'}"
    output = run_to_end([*untouched.through, "sh", "-c", child], untouched.environment())
    assert json.loads(output)["pools"] == ["ctr/1"]


def test_the_patched_tensorflow_is_started_as_it_is(untouched: Untouched, places: Places) -> None:
    # GIVEN a program that runs the patched TensorFlow, started from beside the released one
    program = [sys.executable, "-c", SAY, str(places.models / "ctr" / "1")]
    environment = untouched.environment()
    del environment["PYTHONPATH"]
    library = untouched.site / "tf_model_pool" / "libtf_model_pool_preload.so"
    done = subprocess.run(
        program,
        env={**environment, "LD_PRELOAD": str(library)},
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=True,
    )
    # THEN there is one library in it, its own
    assert json.loads(done.stdout)["pools"] == ["ctr/1"]


def test_a_library_that_was_preloaded_before_keeps_its_place(
    untouched: Untouched, tmp_path: Path, places: Places
) -> None:
    # GIVEN a malloc of the user's own in LD_PRELOAD
    other = tmp_path / "libother.so"
    subprocess.run(
        ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(other)],
        input='extern "C" int other_was_preloaded() { return 1; }',
        text=True,
        check=True,
    )
    code = "import ctypes; assert ctypes.CDLL(None).other_was_preloaded() == 1\n" + SAY
    command = [*untouched.through, str(untouched.python), "-c", code]
    output = run_to_end(
        [*command, str(places.models / "ctr" / "1")],
        untouched.environment({"LD_PRELOAD": str(other)}),
    )
    assert json.loads(output)["pools"] == ["ctr/1"]


@pytest.fixture
def native(untouched: Untouched, probe: Path, places: Places) -> Report:
    """What the native program printed on the released libraries; it is linked to no others."""
    ids = places.models.parent / "preload_request.bin"
    request(0).tofile(ids)
    versions = sorted((places.models / "ctr").iterdir())
    directory = _tensorflow_of(untouched)
    return run_probe(
        probe,
        "onednn",
        "isolate",
        0,
        ids,
        *[*versions, versions[0]][:3],
        through=untouched.through,
        extra={
            "PYTHONPATH": str(untouched.site),
            # Before the program's own path, which leads to the patched libraries.
            "LD_LIBRARY_PATH": f"{directory}:{untouched.site / 'tf_model_pool'}",
        },
    )


def _tensorflow_of(untouched: Untouched) -> Path:
    code = "import importlib.util as u; print(u.find_spec('tensorflow').origin)"
    return Path(run_to_end([str(untouched.python), "-c", code], dict(os.environ)).strip()).parent


def test_a_native_program_has_its_variables_in_pools(native: Report) -> None:
    lines = native.of("variable")
    first_two = [line for line in lines[: 2 * len(lines) // 3] if line["bytes"]]
    addresses: dict[str, dict[str, int]] = {}
    for line in first_two:
        name = "/".join(Path(line["model"]).parts[-2:])
        addresses.setdefault(name, {})[line["name"]] = line["address"]
    pool_at = {line["address"]: line["pool"] for line in first_two}
    assert sorted(addresses) == ["ctr/1", "ctr/2"]
    assert weight_violations(addresses, pool_at.get) == []


def test_a_native_program_swaps_into_the_standby_slot(native: Report) -> None:
    before = native.state("first unloaded")["pools"]
    after = native.state("third loaded")["pools"]
    assert [p["state"] for p in before] == ["standby", "live"]
    assert [p["num_mappings"] for p in after] == [p["num_mappings"] for p in before]
    assert {p["state"] for p in after} == {"live"}
