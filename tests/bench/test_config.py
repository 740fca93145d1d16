# SPDX-License-Identifier: Apache-2.0
"""Configurations, scenarios, and what becomes of the command line."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.bench_runs import made_up_model
from tf_model_pool.bench import command, config, errors, throughput, wheels
from tf_model_pool.bench.errors import BenchError, MissingLibraryError, MissingPackageError
from tf_model_pool.bench.records import REQUEST


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(arguments)


def test_a_command_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("nothing")
    assert "argument COMMAND: invalid choice: 'nothing'" in capsys.readouterr().err


# ---- configurations ----


def test_every_preset_of_the_story_exists() -> None:
    for name in (*config.QUICK, *config.STORY, *config.STORY_AT_ONCE, *config.FULL):
        assert config.parse_configuration(name).name == name


def test_presets_run_the_wheel_that_their_name_says() -> None:
    for name, preset in config.PRESETS.items():
        assert name.startswith("python-" if preset.python else preset.wheel)
        # Nobody has the package's functions but the patched wheel.
        assert preset.python in ("", "eager") or preset.wheel == "patched"


def test_a_configuration_is_read_from_keys_and_values() -> None:
    found = config.parse_configuration(
        "patched:malloc=jemalloc,allocator=system,warmup=off,num_load_threads=2,load_threadpool=3,"
        "aspired_version_policy=resource_preserving,env.TF_MODEL_POOL_SLOTS=2,name=mine"
    )
    assert found == config.Configuration(
        name="mine",
        wheel="patched",
        malloc="jemalloc",
        allocator="system",
        warmup=False,
        server=config.Server(
            num_load_threads=2,
            load_threadpool=3,
            aspired_version_policy="resource_preserving",
        ),
        environment=(("TF_MODEL_POOL_SLOTS", "2"),),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nightly", "neither a preset .* nor stock or patched"),
        ("stock:allocator=arena", "allocator=arena; allowed: onednn, system, cpu_bfc"),
        ("stock:warmup=yes", "warmup=yes; allowed: on, off"),
        ("stock:num_load_threads=-1", "num_load_threads=-1; allowed: a whole number"),
        ("stock:threads=1", "unknown key 'threads'; allowed: malloc"),
        ("stock:warmup", "'warmup' is not key=value"),
        ("stock:aspired_version_policy=none", "allowed: availability_preserving"),
    ],
)
def test_a_bad_configuration_says_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        config.parse_configuration(text)


def test_a_missing_malloc_names_the_command_that_installs_it(tmp_path: Path) -> None:
    for name, malloc in config.MALLOCS.items():
        if malloc is not None:
            with pytest.raises(MissingLibraryError, match=f"apt-get install {malloc.package}"):
                config.find_malloc(name, [str(tmp_path)])


def test_a_malloc_may_be_a_path(tmp_path: Path) -> None:
    library = tmp_path / "libmine.so"
    library.touch()
    assert config.find_malloc(str(library)) == (library, {})
    with pytest.raises(MissingLibraryError, match="there is no such file"):
        config.find_malloc(str(tmp_path / "other.so"))


def test_an_unknown_malloc_says_what_is_allowed() -> None:
    with pytest.raises(BenchError, match="malloc=hoard; allowed: glibc, jemalloc"):
        config.find_malloc("hoard")


def test_the_driver_gets_the_configuration_and_not_the_callers_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a caller with settings of its own, and a preloaded malloc with settings
    for name in ("TF_MODEL_POOL", "MALLOC_CONF", "LD_PRELOAD", "TF_ENABLE_ONEDNN_OPTS"):
        monkeypatch.setenv(name, "caller")
    library = tmp_path / "libjemalloc.so.2"
    library.touch()
    monkeypatch.setattr(config, "find_malloc", lambda _: (library, {"MALLOC_CONF": "tuned"}))
    found = config.parse_configuration("stock-jemalloc-tuned").child_environment(tmp_path)
    assert found["LD_PRELOAD"] == str(library)
    assert found["MALLOC_CONF"] == "tuned"
    assert found["TF_ONEDNN_USE_SYSTEM_ALLOCATOR"] == "1"
    assert found["LD_LIBRARY_PATH"] == str(tmp_path)
    assert "TF_MODEL_POOL" not in found
    assert "TF_ENABLE_ONEDNN_OPTS" not in found


def test_a_load_thread_pool_is_a_second_pool_that_loads_use() -> None:
    server = config.Server(load_threadpool=2).driver()
    assert [p["num_threads"] for p in server["session_inter_op_thread_pool"]] == [0, 2]
    assert server["session_run_load_threadpool_index"] == 1
    plain = config.Server().driver()
    assert plain["session_inter_op_thread_pool"] == []
    assert plain["session_run_load_threadpool_index"] is None


# ---- timelines ----


def actions(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["action"] for entry in entries]


def timeline(name: str = "repeated", order: int = 0, **timing: Any) -> config.Timeline:
    scenario = config.SCENARIOS[name]
    names = ["a", "b"][: scenario.models]
    return config.make_timeline(scenario, names, config.Timing(1.0, **timing), 10**8, order)


def test_every_update_has_both_controls_in_turn() -> None:
    made = timeline(cycles=3, settle=0)
    found = actions(made.entries)
    assert [sorted(found[i : i + 3]) for i in (0, 3, 6)] == [
        ["burn_cpu", "burn_stream", "update"]
    ] * 3
    # No action is always the first one.
    assert {found[0], found[3], found[6]} == {"update", "burn_cpu", "burn_stream"}


def test_the_next_round_begins_with_another_action() -> None:
    assert actions(timeline(order=0, settle=0).entries)[0] == "update"
    assert actions(timeline(order=1, settle=0).entries)[0] == "burn_cpu"


def test_controls_last_as_long_as_an_update_and_move_as_many_bytes() -> None:
    burns = [e for e in timeline().entries if e["action"].startswith("burn")]
    assert {e["duration_s"] for e in burns} == {1.0}
    assert {e["bytes"] for e in burns if e["action"] == "burn_stream"} == {10**8}


def test_measuring_begins_after_the_settling_updates() -> None:
    made = timeline(settle=2)
    early = [e for e in made.entries if e["at_s"] < made.measure_from_s]
    assert actions(early) == ["update", "update"]
    assert max(e["at_s"] for e in made.entries) < made.duration_s


def test_scenarios_update_the_models_that_they_say() -> None:
    def updated(name: str) -> list[str]:
        found: list[str] = next(
            e["models"] for e in timeline(name).entries if e["action"] == "update"
        )
        return found

    assert updated("repeated") == ["a"]
    assert updated("two-at-once") == ["a", "b"]
    assert updated("neighbour") == ["a"]
    drift = timeline("drift", settle=0)
    assert actions(drift.entries).count("update") == 200
    assert actions(drift.entries).count("burn_cpu") == 1


def test_a_period_sets_updates_apart() -> None:
    at = [e["at_s"] for e in timeline(period=60, settle=0).entries if e["action"] == "update"]
    assert all(b - a > 50 for a, b in itertools.pairwise(at))


def test_the_drivers_configuration_shares_the_rate_and_leaves_out_the_warm_up(
    tmp_path: Path,
) -> None:
    models = [made_up_model(name, tmp_path) for name in ("a", "b")]
    found = config.driver_config(
        config.parse_configuration("stock-cold"),
        models,
        timeline("two-at-once"),
        rate=100,
        seed=1,
        request_threads=4,
        cpus=(None, None),
        lead_s=2,
    )
    assert [m["rate"] for m in found["models"]] == [50, 50]
    assert [m["warmup"] for m in found["models"]] == [None, None]
    assert found["schema"] == "tf_model_pool.bench.driver/1"


# ---- the command line ----


def test_quick_compares_stock_and_patched_on_a_small_model() -> None:
    options = command._options(parse("--quick"))
    assert [c.key for c in options.cells] == ["ctr-mix/repeated/stock", "ctr-mix/repeated/patched"]
    assert options.rounds == 2
    shape = options.what["ctr-mix"]
    assert shape == command._options(parse("--quick", "--scale", "0.1")).what["ctr-mix"]


def test_the_story_has_two_versions_at_once() -> None:
    cells = command._options(parse("--story")).cells
    assert {c.scenario for c in cells} == {"repeated", "two-at-once"}
    assert [c.configuration.name for c in cells if c.scenario == "repeated"] == list(config.STORY)


def test_a_users_model_is_a_directory(tmp_path: Path) -> None:
    options = command._options(parse("--model", str(tmp_path), "--max-index", "500"))
    assert {c.model for c in options.cells} == {tmp_path.name}
    assert options.requests.max_index == 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "bert"], "neither a directory nor one of ctr-large"),
        (["--scenario", "chaos"], "--scenario chaos; allowed: one, repeated"),
        (["--config", "stock:name=x", "--config", "patched:name=x"], "two configurations"),
        (["--scale", "99"], "scale is 99.0; allowed"),
    ],
)
def test_a_bad_argument_says_what_is_allowed(arguments: list[str], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        command._options(parse(*arguments))


def test_a_missing_package_names_the_pip_command() -> None:
    with pytest.raises(MissingPackageError, match="pip install no_such_module"):
        errors.require("no_such_module")


def test_the_pins_in_messages_are_those_of_the_project(repository: Path) -> None:
    pyproject = (repository / "pyproject.toml").read_text()
    for requirement in errors.REQUIREMENTS.values():
        assert f'"{requirement}' in pyproject


def test_a_dry_run_names_every_path_that_does_not_exist(tmp_path: Path) -> None:
    # GIVEN
    given = {
        name: tmp_path / "none" / name
        for name in ("--model", "--stock-python", "--patched-python", "--driver")
    }
    arguments = [word for name, path in given.items() for word in (name, str(path))]
    # WHEN, THEN
    with pytest.raises(BenchError, match="do not exist") as caught:
        command.run(parse("--dry-run", *arguments))
    assert [f"{n} {p}" for n, p in given.items() if f"{n} {p}" not in str(caught.value)] == []


def test_a_dry_run_says_what_would_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN an interpreter and a driver that exist, and one that no configuration here uses
    monkeypatch.setattr(wheels, "find_wheel", lambda name, python: name)
    used = ("--patched-python", sys.executable, "--driver", sys.executable)
    arguments = [*used, "--stock-python", str(tmp_path / "none"), "--config", "patched"]
    # WHEN
    assert command.run(parse("--quick", "--dry-run", *arguments)) == 0
    # THEN
    assert capsys.readouterr().out == "2 x ctr-mix/repeated/patched\n"


def test_missing_environments_are_a_clear_error(tmp_path: Path) -> None:
    args = parse("--quick", "--stock-python", str(tmp_path / "none"), "--output", str(tmp_path))
    with pytest.raises(BenchError, match=r"--stock-python .*none.*build\.sh test"):
        command.run(args)


def test_listing_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(parse("list")) == 0
    text = capsys.readouterr().out
    for name in (*config.PRESETS, *config.SCENARIOS, "ctr-large", "frozen"):
        assert f"  {name} " in text


# ---- servers in Python ----


def test_a_python_server_has_its_way_and_its_client() -> None:
    found = config.parse_configuration("patched:python=hot,client=inside,warmup=off")
    assert (found.wheel, found.python, found.client) == ("patched", "hot", "inside")
    assert config.parse_configuration("stock:python=eager").client == "socket"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stock:python=lazy", "python=lazy; allowed: eager, load, hot"),
        ("patched:python=load,client=tcp", "client=tcp; allowed: socket, inside"),
        ("stock:python=load", "python=load needs the package of the patched wheel"),
        ("patched:client=inside", "client= goes with python="),
        ("patched:python=load,num_load_threads=1", "num_load_threads is the native driver's"),
    ],
)
def test_what_a_python_server_cannot_have_is_named(text: str, expected: str) -> None:
    with pytest.raises(BenchError, match=re.escape(expected)):
        config.parse_configuration(text)


def test_the_python_driver_gets_the_layout_of_requests_and_a_burner() -> None:
    python = config.parse_configuration("python-load")
    arguments: dict[str, Any] = {
        "rate": 1.0,
        "seed": 1,
        "request_threads": 1,
        "cpus": (None, None),
        "lead_s": 0.0,
    }
    timeline = config.Timeline([], 0.0, 1.0)
    made = config.driver_config(python, [], timeline, burner=Path("driver"), **arguments)
    assert made["python"]["way"] == "load"
    assert made["python"]["burner"] == "driver"
    assert np.dtype([tuple(f) for f in made["python"]["record"]]) == REQUEST
    assert "server" not in made
    assert "python" not in config.driver_config(config.PRESETS["stock"], [], timeline, **arguments)


# ---- throughput ----


def test_throughput_shares_the_options_that_stand_before_its_name() -> None:
    args = parse("--stock-python", "a", "throughput", "--batches", "8", "--patched-python", "b")
    assert (args.stock_python, args.patched_python) == (Path("a"), Path("b"))
    assert (args.batches, args.threads) == ("8", "1,4")


@pytest.mark.parametrize(("option", "value"), [("--batches", "8,x"), ("--threads", "0")])
def test_throughput_names_the_number_that_is_none(option: str, value: str) -> None:
    with pytest.raises(BenchError, match=rf"{option} {value}: expected whole numbers above 0"):
        command._numbers(option, value)


def test_the_table_of_throughput_has_medians_and_ranges() -> None:
    row = {"configuration": "python-load", "batch": 8, "threads": 4}
    row |= {"requests_per_s": [9000.0, 12000.0, 11000.0], "call_us": [80.0, 70.4, 60.0]}
    line = throughput.text({"rows": [row]}).splitlines()[1]
    assert line.split() == ["python-load", "8", "4", "11,000", "[9,000-12,000]", "70.4"]
