# SPDX-License-Identifier: Apache-2.0
"""The smoke test of a server by its metrics: what passes, and that each check can fail."""

from __future__ import annotations

import argparse
import json

import pytest

from tf_model_pool import doctor, scrape, server_check
from tf_model_pool.errors import ModelPoolError

#: A server after its second load, as TensorFlow Serving prints it.
HEALTHY = """\
:tensorflow:core:model_pool:bytes_in_use{model_dir="/models/ctr",slot="A"} 0
:tensorflow:core:model_pool:bytes_in_use{model_dir="/models/ctr",slot="B"} 300
:tensorflow:core:model_pool:bytes_reserved{model_dir="/models/ctr",slot="A"} 400
:tensorflow:core:model_pool:bytes_reserved{model_dir="/models/ctr",slot="B"} 400
:tensorflow:core:model_pool:info{model_dir="/models/ctr",slot="A",version="1",state="standby"} 1
:tensorflow:core:model_pool:info{model_dir="/models/ctr",slot="B",version="2",state="live"} 1
:tensorflow:core:model_pool:fallback_loads{} 0
:tensorflow:core:model_pool:fallback_bytes{} 0
:tensorflow:core:model_pool:limit_bytes{} 1000
"""


def failed(text: str) -> list[str]:
    return [one.text for one in server_check.check(scrape.parse(text)) if not one.passed]


def test_a_server_whose_models_lie_in_pools_passes() -> None:
    checks = server_check.check(scrape.parse(HEALTHY))
    assert [one.passed for one in checks] == [True] * 5
    assert server_check.render(checks).splitlines()[0] == "ok    live pools: ctr/2"


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ('state="live"', 'state="loading"', "live pools: none"),
        ('slot="B"} 300', 'slot="B"} 0', "live pools without a tensor: ctr/2"),
        ("fallback_loads{} 0", "fallback_loads{} 2", "loads that got no pool: 2"),
        ("fallback_loads{} 0", "", "loads that got no pool: not among the metrics"),
        ("fallback_bytes{} 0", "fallback_bytes{} 7", "bytes of variables outside the pools: 7"),
        ("limit_bytes{} 1000", "limit_bytes{} 880", "reserved of the limit: 91 % (at most 90 %)"),
    ],
)
def test_each_check_can_fail(right: str, wrong: str, words: str) -> None:
    assert right in HEALTHY
    assert failed(HEALTHY.replace(right, wrong)) == [words]


def test_no_limit_is_not_checked() -> None:
    without = HEALTHY.replace("limit_bytes{} 1000", "limit_bytes{} 0")
    assert len(server_check.check(scrape.parse(without))) == 4
    assert failed(without) == []


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize(
    ("text", "status"), [(HEALTHY, 0), (HEALTHY.replace("loads{} 0", "loads{} 1"), 1)]
)
def test_doctor_checks_a_server_and_not_this_process(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    text: str,
    status: int,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(scrape, "fetch", lambda url: asked.append(url) or text)
    monkeypatch.setattr(doctor, "collect", lambda: pytest.fail("asked this process"))
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    args = parser.parse_args(["--url", "http://server:8501", *options])
    assert doctor.run(args) == status
    assert asked == ["http://server:8501/monitoring/prometheus/metrics"]
    printed = capsys.readouterr().out
    if options:
        assert json.loads(printed)["healthy"] is (status == 0)
    else:
        assert ("FAIL" in printed) is (status == 1)


def test_a_server_without_pools_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "fetch", lambda url: "process_open_fds 7\n")
    args = argparse.Namespace(url="http://server:8501/metrics", json=False)
    with pytest.raises(ModelPoolError, match="no model pools among the metrics"):
        doctor.run(args)
