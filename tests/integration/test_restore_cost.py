# SPDX-License-Identifier: Apache-2.0
"""What a restore asks of the file system, beside the released TensorFlow."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.bundle_index import read_index, varint, write_index
from support.children import TESTS, Places, run_to_end
from support.modes import child_environment
from support.native import Report
from support.one_by_one import VARIABLES

#: Of a checkpoint: the greatest number that an index can claim.
MOST_SHARDS = (1 << 31) - 1


def _one_by_one(python: Path, what: str, prefix: Path, *through: str) -> None:
    environment = {**child_environment("onednn"), "PYTHONPATH": str(TESTS)}
    command = [*through, str(python), "-m", "support.one_by_one", what, str(prefix)]
    run_to_end(command, environment)


@pytest.fixture(scope="module")
def checkpoint(tensorflow_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix of a checkpoint of many variables in many shards."""
    assert tensorflow_directory
    prefix = tmp_path_factory.mktemp("one_by_one") / "1" / "ckpt"
    _one_by_one(Path(sys.executable), "write", prefix)
    return prefix


def _calls(python: Path, what: str, prefix: Path, log: Path) -> Mapping[str, int]:
    """How often a restore calls the kernel for a file, from the first time for the checkpoint."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.fail("strace is missing: install it with `apt-get install strace`")
    trace = "trace=%%stat,open,openat,openat2,access,faccessat,faccessat2,readlink,getdents64"
    _one_by_one(python, what, prefix, strace, "-f", "-qq", "-y", "-e", trace, "-o", str(log))
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    first = next(i for i, line in enumerate(lines) if str(prefix) in line)
    counts = {"stat": 0, "other": 0}
    for line in lines[first:]:
        # A call that another thread's output has cut in two counts once.
        if called := re.match(r"\d+\s+(\w+)\(", line):
            counts["stat" if "stat" in called.group(1) else "other"] += 1
    return counts


@pytest.mark.parametrize("what", ["deferred", "parallel"])
def test_an_op_for_every_variable_costs_what_it_costs_stock(
    what: str, checkpoint: Path, stock_python: Path, tmp_path: Path
) -> None:
    stock = _calls(stock_python, what, checkpoint, tmp_path / "stock")
    ours = _calls(Path(sys.executable), what, checkpoint, tmp_path / "ours")
    assert stock["stat"] >= VARIABLES
    for name, calls in ours.items():
        assert calls <= stock[name] + VARIABLES // 5, f"{ours} beside {stock}"


def test_a_checkpoint_may_be_replaced_while_it_is_restored(tmp_path: Path) -> None:
    _one_by_one(Path(sys.executable), "replaced", tmp_path / "1" / "ckpt")


def _claim_shards(index: Path, shards: int) -> None:
    entries = read_index(index.read_bytes())
    # num_shards of BundleHeaderProto: of a field given twice the last one counts.
    entries[b""] += b"\x08" + varint(shards)
    index.write_bytes(write_index(entries))


def _load(probe: Path, directory: Path, settings: Mapping[str, str]) -> Mapping[str, Any]:
    output = run_to_end(
        [str(probe), "load", "full", str(directory)], child_environment("onednn", settings)
    )
    (line,) = Report([json.loads(line) for line in output.splitlines()]).of("load")
    return line


@pytest.mark.parametrize("name", ["ctr", "big"])  # the table of the latter is read in pieces
def test_an_index_that_claims_more_shards_than_there_are(
    name: str, probe: Path, places: Places, tmp_path: Path
) -> None:
    # GIVEN an index whose only untruth is the number of data files
    model = tmp_path / name / "1"
    shutil.copytree(places.models / name / "1", model)
    index = model / "variables" / "variables.index"
    _claim_shards(index, 1)
    drop = {"TF_MODEL_POOL_DROP_CACHE": "on"}
    assert _load(probe, model, drop)["status"] == "OK"
    _claim_shards(index, MOST_SHARDS)
    # WHEN it is loaded by a process that has every data file dropped from the page cache
    ours, stock = _load(probe, model, drop), _load(probe, model, {"TF_MODEL_POOL": "off"})
    # THEN that ends, with TensorFlow's own error
    assert str(MOST_SHARDS) in stock["status"]
    assert ours["status"] == stock["status"]
