# SPDX-License-Identifier: Apache-2.0
"""What `release` refuses. What it frees is tested on real models."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tf_model_pool


class Trackable:
    pass


class Variable(Trackable):
    pass


class Function(Trackable):
    pass


@pytest.fixture(autouse=True)
def _tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of TensorFlow that are asked for before anything runs."""
    tf: Any = types.ModuleType("tensorflow")
    tf.Variable = Variable
    tf.types = types.SimpleNamespace(
        experimental=types.SimpleNamespace(PolymorphicFunction=Function, ConcreteFunction=Function)
    )
    tf.__internal__ = types.SimpleNamespace(tracking=types.SimpleNamespace(Trackable=Trackable))
    monkeypatch.setitem(sys.modules, "tensorflow", tf)


@pytest.mark.parametrize(
    ("given", "came"),
    [
        (None, "not NoneType$"),
        ("/models/ctr/1", "not str$"),
        ([Trackable()], "not list$"),
        (Variable(), r"not .*\.Variable: give the model that it belongs to"),
        (Function(), r"not .*\.Function: give the model that it belongs to"),
    ],
)
def test_what_is_no_model_is_named(given: object, came: str) -> None:
    with pytest.raises(TypeError, match=f"takes a model that tf.saved_model.load returned, {came}"):
        tf_model_pool.release(given)


@pytest.fixture
def hot(tmp_path: Path) -> Iterator[tf_model_pool.HotModel]:
    with tf_model_pool.HotModel(tmp_path) as made:
        yield made


def test_models_that_are_closed_are_told_apart(hot: tf_model_pool.HotModel) -> None:
    with pytest.raises(TypeError, match=r"HotModel: call its close\(\)"):
        tf_model_pool.release(hot)
