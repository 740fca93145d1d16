# SPDX-License-Identifier: Apache-2.0
"""Generated models, users' models and their requests. Those with TensorFlow run its writers."""

from __future__ import annotations

import importlib.util
import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from tf_model_pool.bench import models
from tf_model_pool.bench.errors import ModelError

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="no TensorFlow in this environment"
)
SMALL = 0.004


def prepare(cache: Path, what: models.Shape | models.UserModel, **options: Any) -> models.Model:
    return models.prepare(
        "m",
        what,
        models.RequestOptions(**{"count": 5, **options}),
        python=Path(sys.executable),
        tensorflow_version="test",
        cache=cache,
    )


def records(path: Path) -> list[bytes]:
    """The records of a TFRecord file (length, its checksum, data, their checksum)."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(data[12 : 12 + length])
        data = data[12 + length + 4 :]
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of this module keep their models."""
    return tmp_path_factory.mktemp("cache")


# ---- without TensorFlow ----


@pytest.mark.parametrize(
    ("shape", "scale", "message"),
    [
        ("bert", 1.0, "unknown model 'bert'; known are ctr-large"),
        ("wide", 0, "scale is 0; allowed"),
    ],
)
def test_a_bad_shape_says_what_is_allowed(shape: str, scale: float, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.Shape(shape, scale)


def test_numbered_versions_are_served_in_order(tmp_path: Path) -> None:
    for name in ("10", "9", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    found = models.user_versions(tmp_path, tmp_path / "cache")
    assert [path.name for path in found] == ["9", "10"]


def test_a_single_model_becomes_two_versions_that_share_its_bytes(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "variables").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(b"graph")
    weights = model / "variables/variables.data-00000-of-00001"
    weights.write_bytes(b"weights")
    found = models.user_versions(model, tmp_path / "cache")
    assert [path.name for path in found] == ["1", "2"]
    assert found[0].parent == found[1].parent
    assert weights.stat().st_nlink == 3
    # WHEN the model changes, so do its versions
    (model / "saved_model.pb").write_bytes(b"another graph")
    assert models.user_versions(model, tmp_path / "cache") != found


@pytest.mark.parametrize("make", [False, True])
def test_a_directory_without_a_model_is_an_error(tmp_path: Path, make: bool) -> None:
    directory = tmp_path / "nothing"
    if make:
        directory.mkdir()
    with pytest.raises(ModelError, match="holds neither" if make else "is not a directory"):
        models.user_versions(directory, tmp_path)


def test_recorded_requests_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").touch()
    with pytest.raises(ModelError, match="has no recorded requests"):
        prepare(tmp_path / "cache", models.UserModel(tmp_path), recorded=True)


def test_an_interpreter_without_tensorflow_is_an_error(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no TensorFlow here >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(ModelError, match="no TensorFlow here"):
        models.generate(models.Shape("wide"), python, "test", tmp_path / "cache")
    # AND nothing half made is left that the next call would take for a model
    assert list((tmp_path / "cache").iterdir()) == []


# ---- with TensorFlow ----


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("shape", models.SHAPES)
def test_every_shape_is_made_and_answers(shape: str, cache: Path) -> None:
    found = prepare(cache, models.Shape(shape, SMALL))
    assert all((version / "saved_model.pb").is_file() for version in found.versions)
    assert len(records(found.requests)) == 5
    first, second = found.checksums
    # Versions differ, so that an answer tells which one gave it.
    assert None not in first
    assert None not in second
    assert all(a != b for a, b in zip(first, second, strict=True))


@needs_tensorflow
@pytest.mark.slow
def test_the_same_seed_makes_the_same_model_and_requests(tmp_path: Path, cache: Path) -> None:
    first = prepare(cache, models.Shape("frozen", SMALL))
    again = prepare(tmp_path, models.Shape("frozen", SMALL))
    other = prepare(tmp_path, models.Shape("frozen", SMALL, seed=2), seed=2)
    assert records(first.requests) == records(again.requests)
    assert first.checksums == again.checksums
    assert first.checksums != other.checksums


@needs_tensorflow
@pytest.mark.slow
def test_a_model_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(cache, models.Shape("frozen", SMALL))
    monkeypatch.setattr(models, "_run_child", lambda *_: pytest.fail("made again"))
    assert prepare(cache, models.Shape("frozen", SMALL)) == first


@needs_tensorflow
@pytest.mark.slow
def test_a_users_model_gets_requests_from_its_signature(cache: Path) -> None:
    made = prepare(cache, models.Shape("frozen", SMALL))
    found = prepare(cache, models.UserModel(made.versions[0]), max_index=50, batch=3)
    assert found.details["requests"]["batch"] == 3
    assert found.checksums[0] == found.checksums[1]
    # Ids beyond the table are the user's to mend, and the error says how.
    with pytest.raises(ModelError, match=r"rejects a request.*--max-index"):
        prepare(cache, models.UserModel(made.versions[0]), max_index=10**6)


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"signature": "other"}, r"no signature 'other'; it has \['serving_default'\]"),
        ({"tags": ("train",)}, r"no graph with tags \['train'\]"),
    ],
)
def test_a_signature_that_is_not_there_is_a_clear_error(
    cache: Path, options: dict[str, Any], message: str
) -> None:
    made = prepare(cache, models.Shape("frozen", SMALL))
    with pytest.raises(ModelError, match=message):
        prepare(cache, models.UserModel(made.versions[0].parent), **options)


@needs_tensorflow
@pytest.mark.slow
def test_a_larger_next_version_is_larger(cache: Path) -> None:
    found = prepare(cache, models.Shape("tf1-ref", SMALL, scales=(1.0, 1.5)))
    assert found.bytes[1] > 1.3 * found.bytes[0]


@needs_tensorflow
@pytest.mark.slow
def test_answers_are_kept_with_the_requests(cache: Path) -> None:
    found = prepare(cache, models.Shape("frozen", SMALL))
    kept = json.loads((found.requests.parent / "answers.json").read_text())
    assert kept["checksums"] == found.checksums
