# SPDX-License-Identifier: Apache-2.0
"""Statistics as text and JSON, and the command around them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import types
from typing import Any

import pytest

from tf_model_pool import api, stats
from tf_model_pool.errors import ModelPoolError, NotActiveError, SettingError

MIB = 1 << 20


def pool(**changes: Any) -> api.PoolStats:
    base = api.PoolStats(
        id=1,
        name="ctr/1",
        model_dir="/models/ctr",
        version="1",
        slot="A",
        state="live",
        bytes_in_use=12 * MIB,
        peak_bytes_in_use=13 * MIB,
        bytes_reserved=14 * MIB,
        num_tensors=5,
        largest_free_block=2 * MIB,
        fallback_bytes=0,
        num_regions=1,
        num_mappings=1,
        num_loads=1,
    )
    return dataclasses.replace(base, **changes)


def totals(**changes: Any) -> api.Totals:
    base = api.Totals(
        bytes_in_use=12 * MIB,
        bytes_reserved=14 * MIB,
        limit_bytes=0,
        num_pools=1,
        num_mappings=1,
        fallback_loads=0,
        fallback_bytes=0,
        trimmed_bytes=0,
        prepared_bytes=0,
        last_fallback_reason="",
    )
    return dataclasses.replace(base, **changes)


def load_totals(**changes: Any) -> api.LoadTotals:
    base = api.LoadTotals(
        direct_restores=0, graph_restores=0, cold_versions=0, last_graph_restore_reason=""
    )
    return dataclasses.replace(base, **changes)


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    stats.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch) -> list[api.PoolStats]:
    """A process with pools; the list is what they are."""
    held: list[api.PoolStats] = []
    monkeypatch.setattr(api, "pools", lambda: list(held))
    monkeypatch.setattr(api, "totals", lambda: totals(num_pools=len(held)))
    monkeypatch.setattr(api, "load_totals", load_totals)
    monkeypatch.setattr(api, "inactive_reason", lambda: None)
    return held


def test_json_has_schema_and_every_field() -> None:
    read = json.loads(stats.to_json(stats.Stats([pool()], totals(), load_totals())))
    assert read == {
        "schema": "tf_model_pool.stats/1",
        "pools": [dataclasses.asdict(pool())],
        "totals": dataclasses.asdict(totals()),
        "load_totals": dataclasses.asdict(load_totals()),
    }


def test_table_shows_a_line_per_pool_with_models_together() -> None:
    pools = [
        pool(model_dir="/models/rank", name="rank/7", slot="A"),
        pool(slot="B", name="ctr/2", state="standby", bytes_in_use=0),
        pool(),
    ]
    lines = stats.render(stats.Stats(pools, totals(), load_totals())).splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["ctr/1", "A", "live"],
        ["ctr/2", "B", "standby"],
        ["rank/7", "A", "live"],
    ]
    assert lines[1].endswith("/models/ctr")


def test_columns_are_aligned() -> None:
    pools = [pool(), pool(slot="B", name="a-long-name/20260101", bytes_in_use=3 << 30)]
    header, *rows = stats.render(stats.Stats(pools, totals(), load_totals())).splitlines()[:3]
    assert len({line.index("/models/ctr") for line in rows}) == 1
    assert header.index("MODEL DIRECTORY") == rows[0].index("/models/ctr")


def test_fallback_is_shown_with_its_reason() -> None:
    sums = totals(fallback_loads=2, last_fallback_reason="all 4 slots are in use")
    text = stats.render(stats.Stats([], sums, load_totals()))
    assert "2 loads" in text
    assert "all 4 slots are in use" in text


def test_restores_are_shown_with_the_reason_for_the_last_graph() -> None:
    loads = load_totals(
        direct_restores=7,
        graph_restores=2,
        cold_versions=1,
        last_graph_restore_reason="it reads a slice",
    )
    text = stats.render(stats.Stats([], totals(), loads))
    assert "7 restores set variables directly, 2 ran the graph (last: it reads a slice)." in text
    assert "Requests that were not prepared for: 1." in text
    assert "0 ran the graph." in stats.render(stats.Stats([], totals(), load_totals()))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (96 * MIB, "96.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_sizes_have_binary_units(count: int, text: str) -> None:
    assert stats.format_bytes(count) == text


def test_command_prints_json_alone_on_standard_output(
    active: list[api.PoolStats], capsys: pytest.CaptureFixture[str]
) -> None:
    active.append(pool())
    assert stats.run(parse("--json")) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["pools"][0]["name"] == "ctr/1"
    assert captured.err == ""


def test_command_loads_models_and_keeps_them_until_they_are_counted(
    monkeypatch: pytest.MonkeyPatch,
    active: list[api.PoolStats],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # GIVEN a load whose pool lives as long as the model does
    class Model:
        def __init__(self, directory: str) -> None:
            self.entry = pool(name=directory)
            active.append(self.entry)

        def __del__(self) -> None:
            active.remove(self.entry)

    monkeypatch.setattr(stats, "_load", Model)
    # WHEN two are loaded
    assert stats.run(parse("--load", "ctr/1", "--load", "ctr/2")) == 0
    # THEN both are in the table
    output = capsys.readouterr().out
    assert "ctr/1" in output
    assert "ctr/2" in output


def test_command_names_a_directory_that_is_no_model(
    monkeypatch: pytest.MonkeyPatch,
    active: list[api.PoolStats],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(directory: str) -> None:
        raise OSError(f"SavedModel file does not exist at: {directory}")

    tf = types.SimpleNamespace(
        saved_model=types.SimpleNamespace(load=load), errors=types.SimpleNamespace(OpError=KeyError)
    )
    monkeypatch.setitem(sys.modules, "tensorflow", tf)
    with pytest.raises(ModelPoolError, match="cannot load the SavedModel /nowhere"):
        stats.run(parse("--load", "/nowhere"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "error", [NotActiveError("no TensorFlow"), SettingError("TF_MODEL_POOL_SLOTS")]
)
def test_command_without_pools_fails_before_it_loads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def refuse() -> list[api.PoolStats]:
        raise error

    monkeypatch.setattr(api, "pools", refuse)
    monkeypatch.setattr(stats, "_load", lambda directory: pytest.fail("loaded a model first"))
    with pytest.raises(type(error), match=str(error)):
        stats.run(parse("--load", "ctr/1"))
    assert capsys.readouterr().out == ""


def test_command_with_pools_switched_off_says_so(
    monkeypatch: pytest.MonkeyPatch,
    active: list[api.PoolStats],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(api, "inactive_reason", lambda: "TF_MODEL_POOL=off")
    assert stats.run(parse()) == 0
    captured = capsys.readouterr()
    assert "No pools" in captured.out
    assert "TF_MODEL_POOL=off" in captured.err
