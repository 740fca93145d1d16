# SPDX-License-Identifier: Apache-2.0
"""Statistics as text and JSON, and the command around them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tf_model_pool
from tf_model_pool import api, scrape, stats
from tf_model_pool.errors import ModelPoolError, NotActiveError, SettingError

MIB = 1 << 20
PACKAGE_PARENT = Path(tf_model_pool.__file__).resolve().parent.parent


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


def save_versions(base: Path, *versions: str) -> Path:
    for version in versions:
        (base / version).mkdir(parents=True)
        (base / version / "saved_model.pb").write_bytes(b"")
    return base


def test_command_suggests_the_newest_version_of_a_base_directory(
    active: list[api.PoolStats], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a directory as servers watch it, with one that is still written
    base = save_versions(tmp_path / "my ctr", "2", "10", "9")
    (base / "11").mkdir()
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    # WHEN, THEN: before TensorFlow is asked
    with pytest.raises(ModelPoolError, match=r"has no saved_model\.pb") as caught:
        stats.run(parse("--load", str(base)))
    assert f"--load '{base}/10'" in str(caught.value)
    assert "2, 9, 10" in str(caught.value)


def test_command_says_how_to_see_another_process_if_it_has_loaded_nothing(
    active: list[api.PoolStats], capsys: pytest.CaptureFixture[str]
) -> None:
    assert stats.run(parse()) == 0
    captured = capsys.readouterr()
    assert "No pools" in captured.out
    assert "stats --url http://" in captured.err
    assert "tf_model_pool.stats.collect()" in captured.err


# ---- another process ------------------------------------------------------------------------

#: As TensorFlow Serving writes them.
METRICS = """\
# TYPE :tensorflow:serving:request_count counter
:tensorflow:serving:request_count{model_name="ctr",status="OK"} 71
# TYPE :tensorflow:core:model_pool:bytes_in_use gauge
:tensorflow:core:model_pool:bytes_in_use{model_dir="/models/ctr",slot="A"} 0
:tensorflow:core:model_pool:bytes_in_use{model_dir="/models/ctr",slot="B"} 12582912
:tensorflow:core:model_pool:bytes_reserved{model_dir="/models/ctr",slot="A"} 14680064
:tensorflow:core:model_pool:bytes_reserved{model_dir="/models/ctr",slot="B"} 14680064
:tensorflow:core:model_pool:bytes_standby{model_dir="/models/ctr",slot="A"} 14680064
:tensorflow:core:model_pool:bytes_standby{model_dir="/models/ctr",slot="B"} 0
:tensorflow:core:model_pool:bytes_fallback{model_dir="/models/ctr",slot="A"} 0
:tensorflow:core:model_pool:bytes_fallback{model_dir="/models/ctr",slot="B"} 4096
:tensorflow:core:model_pool:tensors{model_dir="/models/ctr",slot="A"} 0
:tensorflow:core:model_pool:tensors{model_dir="/models/ctr",slot="B"} 5
:tensorflow:core:model_pool:info{model_dir="/models/ctr",slot="A",version="1",state="standby"} 1
:tensorflow:core:model_pool:info{model_dir="/models/ctr",slot="B",version="2",state="live"} 1
# TYPE :tensorflow:core:model_pool:limit_bytes gauge
:tensorflow:core:model_pool:limit_bytes{} 0
:tensorflow:core:model_pool:version_loads{memory="new"} 2
:tensorflow:core:model_pool:version_loads{memory="reused"} 0
:tensorflow:core:model_pool:fallback_loads{} 3
:tensorflow:core:model_pool:fallback_bytes{} 8192
:tensorflow:core:model_pool:mappings{} 6
:tensorflow:core:model_pool:prefault_usecs{} 100
:tensorflow:core:model_pool:trimmed_bytes{} 0
:tensorflow:core:model_pool:prepared_bytes{} 1024
:tensorflow:core:model_pool:cold_versions{} 1
:tensorflow:core:model_pool:restores{path="direct"} 7
:tensorflow:core:model_pool:restores{path="graph"} 2
"""


class Endpoint(http.server.ThreadingHTTPServer):
    """A server on this machine that answers every path with one text."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.status = 200
        self.text = METRICS
        self.asked: list[str] = []
        self.connected = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def url(self, path: str = "/monitoring/prometheus/metrics") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Endpoint

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.connected.set()
        self.server.may_answer.wait()
        with contextlib.suppress(OSError):
            self.send_response(self.server.status)
            self.end_headers()
            self.wfile.write(self.server.text.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    # A proxy that answers nothing: the endpoint must be asked itself.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.may_answer.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def no_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's pools are shown without a TensorFlow here."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.delitem(sys.modules, "tf_model_pool._native", raising=False)
    monkeypatch.setattr(api, "pools", lambda: pytest.fail("asked this process"))


@pytest.mark.usefixtures("no_tensorflow")
def test_the_pools_of_a_server_are_shown(
    endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stats.run(parse("--url", endpoint.url())) == 0
    captured = capsys.readouterr()
    rows = [" ".join(line.split()) for line in captured.out.splitlines()]
    assert rows[1:3] == [
        "ctr/1 A standby 0 B 14.0 MiB 0 0 B /models/ctr",
        "ctr/2 B live 12.0 MiB 14.0 MiB 5 4.0 KiB /models/ctr",
    ]
    assert (
        "Pools: 2. In use 12.0 MiB of 28.0 MiB reserved, limit none. Mappings: 6. "
        "Trimmed: 0 B. Prepared: 1.0 KiB." in rows
    )
    assert "Fallback to the device's allocator: 3 loads, 8.0 KiB." in rows
    assert any("7 restores set variables directly, 2 ran the graph." in row for row in rows)
    assert captured.err == ""


@pytest.mark.usefixtures("no_tensorflow")
def test_the_pools_of_a_server_as_json_have_what_the_metrics_say_and_no_more(
    endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stats.run(parse("--json", "--url", endpoint.url())) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["schema"] == "tf_model_pool.stats/1"
    assert read["url"] == endpoint.url()
    assert read["pools"][1] == {
        "name": "ctr/2",
        "model_dir": "/models/ctr",
        "version": "2",
        "slot": "B",
        "state": "live",
        "bytes_in_use": 12 * MIB,
        "bytes_reserved": 14 * MIB,
        "num_tensors": 5,
        "fallback_bytes": 4096,
    }
    assert set(read["pools"][1]) <= {field.name for field in dataclasses.fields(api.PoolStats)}
    assert set(read["totals"]) <= {field.name for field in dataclasses.fields(api.Totals)}
    assert set(read["load_totals"]) <= {field.name for field in dataclasses.fields(api.LoadTotals)}
    assert read["load_totals"] == {"direct_restores": 7, "graph_restores": 2, "cold_versions": 1}


@pytest.mark.parametrize("path", ["", "/"])
def test_the_path_of_a_server_that_is_not_named_is_tensorflow_servings(
    endpoint: Endpoint, path: str
) -> None:
    assert stats.run(parse("--url", endpoint.url(path))) == 0
    assert endpoint.asked == ["/monitoring/prometheus/metrics"]


def test_names_of_other_exporters_labels_with_quotes_and_floats_are_read() -> None:
    labels = r'model_dir="/a \"b\", c\\d",slot="A"'
    text = (
        f'tf_model_pool_pool_info{{{labels},version="7",state="live"}} 1.0\n'
        f"tf_model_pool_pool_bytes_in_use{{{labels},}} 1.2582912e+07 1700000\n"
        f"tf_model_pool_pool_fallback_bytes{{{labels}}} 64.0\n"
        'tf_model_pool_model_loads_total{model="ctr"} 3.0\n'
        "x_model_pool_fallback_loads_total 3.0\n# EOF\n"
    )
    found = scrape.parse(text)
    assert [(p.model_dir, p.version, p.bytes_in_use, p.fallback_bytes) for p in found.pools] == [
        ('/a "b", c\\d', "7", 12 * MIB, 64)
    ]
    assert found.totals.fallback_loads == 3
    assert found.totals.num_mappings is None
    assert "Mappings: unknown" in stats.render_scraped(found)


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (404, "", ("404", "--monitoring_config_file")),
        (200, "<html><body>hello</body></html>", ("no Prometheus metrics",)),
        (200, ":tensorflow:serving:request_count{} 71\n", ("no model pools", "first load")),
        (200, "", ("no model pools",)),
    ],
)
def test_an_endpoint_without_pools_is_an_error_that_says_what_was_found(
    endpoint: Endpoint, status: int, text: str, words: tuple[str, ...]
) -> None:
    endpoint.status, endpoint.text = status, text
    with pytest.raises(ModelPoolError) as caught:
        stats.run(parse("--url", endpoint.url()))
    assert [word for word in (endpoint.url(), *words) if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8501", "expected http://HOST:PORT"),
        ("file:///etc/passwd", "expected http://HOST:PORT"),
        ("http://", "expected http://HOST:PORT"),
        ("http://127.0.0.1:x/metrics", "http://127.0.0.1:x/metrics"),
    ],
)
def test_an_address_that_is_none_is_an_error_that_says_the_form(url: str, words: str) -> None:
    with pytest.raises(ModelPoolError, match=re.escape(words)):
        stats.run(parse("--url", url))


def test_a_server_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: the connection is refused
        url = f"http://127.0.0.1:{held.getsockname()[1]}/metrics"
        with pytest.raises(ModelPoolError) as caught:
            stats.run(parse("--url", url))
    assert str(caught.value).startswith(
        f"{url}: Connection refused. Expected: the --rest_api_port "
    )


def test_a_server_that_keeps_silent_is_an_error_after_the_time_allowed(endpoint: Endpoint) -> None:
    endpoint.may_answer.clear()
    with pytest.raises(ModelPoolError, match="timed out"):
        scrape.fetch(endpoint.url(), timeout_seconds=0.05)


def test_ctrl_c_ends_the_command_with_one_line(endpoint: Endpoint) -> None:
    # GIVEN a command that waits for an answer
    endpoint.may_answer.clear()
    child = subprocess.Popen(
        [sys.executable, "-m", "tf_model_pool", "stats", "--url", endpoint.url()],
        env={**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert endpoint.connected.wait(60)
    # WHEN
    child.send_signal(signal.SIGINT)
    output, error = child.communicate(timeout=60)
    # THEN
    assert (child.returncode, output, error) == (130, "", "interrupted\n")


def test_a_server_and_a_load_cannot_both_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--url", "http://127.0.0.1:1", "--load", "ctr/1")
    assert "not allowed with" in capsys.readouterr().err


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
