# SPDX-License-Identifier: Apache-2.0
"""A result file becomes records; one that is not whole is a clear error."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tf_model_pool.bench.errors import ResultError
from tf_model_pool.bench.result import RESULT_SCHEMA, Result, read

STOCK = "made-up/repeated/stock"


def test_numbers_are_those_of_the_file(result: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result))
    for path in (tmp_path, tmp_path / "result.json"):
        found = read(path)
        assert [group.key for group in found.groups] == ["made-up/repeated"]
        cell = found.cells[STOCK]
        assert cell.summary is not None
        written = result["summary"]["cells"][STOCK]
        p999 = cell.summary.windows["update"].percentiles["p99.9"]
        assert p999 is not None
        assert p999.median == written["windows"]["update"]["p99.9"]["median"]
        assert cell.summary.answers.requests == written["answers"]["requests"]
        assert len(cell.runs) == written["rounds"] == 2


def test_the_typical_run_is_the_one_in_the_middle(result: dict[str, Any]) -> None:
    run = next(r for r in result["runs"] if r["cell"] == STOCK)
    three = copy.deepcopy({**result, "runs": [run, run, run]})
    for number, p99 in zip((0, 1, 2), (7.0, 9.0, 8.0), strict=True):
        three["runs"][number] = copy.deepcopy(run)
        three["runs"][number]["analysis"]["windows"]["update"]["p99"] = p99
    typical = Result.parse(three).cells[STOCK].typical_run
    assert typical is not None
    assert typical.update_p99 == 8.0


def test_a_wheel_without_its_pools_is_not_pooled(parsed: Result, result: dict[str, Any]) -> None:
    assert [name for name, c in parsed.configurations.items() if c.pooled] == ["patched"]
    off = copy.deepcopy(result)
    off["configurations"]["patched"]["environment"] = {"TF_MODEL_POOL": "off"}
    configuration = Result.parse(off).configurations["patched"]
    assert (configuration.patched, configuration.pooled) == (True, False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ('{"schema": "tf_model_pool.bench/0"}', "expected 'tf_model_pool.bench/1'"),
        (json.dumps({"schema": RESULT_SCHEMA}), "field 'configurations' is missing"),
        (json.dumps({"schema": RESULT_SCHEMA, "runs": []}), "no run had ended"),
    ],
)
def test_a_bad_file_is_a_clear_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ResultError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: v["summary"]["cells"][STOCK].pop("windows"), "'windows' is missing"),
        (lambda v: v["summary"]["cells"][STOCK]["answers"].pop("wrong"), "'wrong' is missing"),
        (lambda v: v["summary"].update(cells=3), "not of its kind"),
        (lambda v: v["runs"][0].update(analysis=None), "not of its kind"),
    ],
)
def test_a_damaged_file_names_the_field(
    result: dict[str, Any], damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    damaged = copy.deepcopy(result)
    damage(damaged)
    with pytest.raises(ResultError, match=f"out.json: .*{message}"):
        Result.parse(damaged, "out.json")
