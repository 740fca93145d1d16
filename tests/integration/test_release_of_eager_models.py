# SPDX-License-Identifier: Apache-2.0
"""`release` on real models: the memory is back at once, with the garbage collector off."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tf_model_pool
from support import models
from support.children import Places, run_to_end
from support.modes import child_environment

tf: Any = pytest.importorskip("tensorflow")
UninitializedVariable: Any = importlib.import_module(
    "tensorflow.python.ops.resource_variable_ops"
).UninitializedVariable


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    """What frees memory here is not the collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def in_use(path: Path) -> int:
    """Bytes in the pools of one version."""
    return sum(
        pool.bytes_in_use
        for pool in tf_model_pool.pools()
        if Path(pool.model_dir, pool.version) == path
    )


@pytest.fixture
def ctr(places: Places) -> Path:
    return places.models / "ctr" / "1"


def test_a_loaded_models_memory_is_back_at_once_and_its_slot_on_standby(ctr: Path) -> None:
    # GIVEN a model that serves, and cycles that keep it
    before = in_use(ctr)
    model = tf.saved_model.load(str(ctr))
    model.signatures["serving_default"](ids=tf.constant(models.request(0, 4)))
    weights = models.weights(models.CATALOGUE["ctr"][0], 1)
    expected = sum(value.nbytes for value in weights.values())
    held = in_use(ctr) - before
    assert held >= expected
    # WHEN
    released = tf_model_pool.release(model)
    # THEN
    assert in_use(ctr) == before
    assert expected <= released <= held
    # AND a second time there is nothing to give back
    assert tf_model_pool.release(model) == 0


def test_a_call_of_a_released_model_is_tensorflows_error(ctr: Path) -> None:
    model = tf.saved_model.load(str(ctr))
    serve = model.signatures["serving_default"]
    tf_model_pool.release(model)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"is not in \[0, 0\)"):
        serve(ids=tf.constant(models.request(0, 4)))


def test_another_model_is_left_alone(places: Places, ctr: Path) -> None:
    other = tf.saved_model.load(str(places.models / "ctr" / "2"))
    ids = tf.constant(models.request(0, 4))
    expected = other.signatures["serving_default"](ids=ids)["score"].numpy()
    tf_model_pool.release(tf.saved_model.load(str(ctr)))
    found = other.signatures["serving_default"](ids=ids)["score"].numpy()
    np.testing.assert_array_equal(found, expected)
    tf_model_pool.release(other)


@pytest.mark.parametrize("name", ["v1_resource", "v1_partitioned"])
def test_models_of_tensorflow_1_are_freed(places: Places, name: str) -> None:
    path = places.models / name / "1"
    before = in_use(path)
    model = tf.saved_model.load(str(path))
    assert in_use(path) > before
    assert tf_model_pool.release(model) > 0
    assert in_use(path) == before


def test_an_answer_outlives_the_model(ctr: Path) -> None:
    model = tf.saved_model.load(str(ctr))
    ids = tf.constant(models.request(0, 4))
    answer = model.signatures["serving_default"](ids=ids)["score"]
    copy = answer.numpy().copy()
    tf_model_pool.release(model)
    np.testing.assert_array_equal(answer.numpy(), copy)


class Parts(tf.Module):  # type: ignore[misc]
    """Variables in every place where one can be."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = tf.Variable(tf.ones([10]))
        self.nested = {"a": [self.shared, tf.Variable(tf.ones([3], tf.int64))]}
        self.scalar = tf.Variable(1.0)
        self.unknown = tf.Variable(tf.ones([2, 4]), shape=tf.TensorShape(None))
        self.text = tf.Variable(["a", "b" * 100])
        self.never_set = UninitializedVariable(shape=[5], dtype=tf.float32)
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(["k"], [7]), default_value=-1
        )


def test_shared_nested_and_unset_variables_count_once_and_tables_stay() -> None:
    model = Parts()
    assert tf_model_pool.release(model) == 10 * 4 + 3 * 8 + 4 + 8 * 4 + 2 * 24
    assert model.shared.numpy().shape == (0,)
    assert model.table.lookup(tf.constant(["k"])).numpy().tolist() == [7]
    assert tf_model_pool.release(model) == 0


@pytest.mark.parametrize(
    "name", ["bool", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint64", "complex128"]
)
def test_variables_of_every_type_are_freed(name: str) -> None:
    dtype = tf.dtypes.as_dtype(name)
    model = tf.Module()
    model.value = tf.Variable(tf.constant(np.zeros(6, dtype.as_numpy_dtype), dtype))
    assert tf_model_pool.release(model) == 6 * dtype.size
    assert model.value.read_value().shape == (0,)


def test_a_model_is_freed_while_a_function_is_traced() -> None:
    model = Parts()
    released: list[int] = []

    @tf.function
    def step(x: Any) -> Any:
        released.append(tf_model_pool.release(model))
        return x

    step(tf.constant(1))
    assert released[0] > 0
    assert model.shared.numpy().shape == (0,)


def test_a_keras_model_is_freed() -> None:
    model = tf.keras.Sequential([tf.keras.layers.Dense(3)])
    model.build((None, 5))
    assert tf_model_pool.release(model) >= (5 * 3 + 3) * 4
    assert all(variable.numpy().size == 0 for variable in model.weights)


def test_a_model_of_a_graph_is_refused() -> None:
    with tf.Graph().as_default():
        model = tf.Module()
        model.value = tf.Variable(1.0)
        with pytest.raises(TypeError, match="belongs to a graph"):
            tf_model_pool.release(model)


def test_a_tensor_and_a_signature_are_no_models(ctr: Path) -> None:
    model = tf.saved_model.load(str(ctr))
    for wrong in (tf.constant(1), model.signatures["serving_default"]):
        with pytest.raises(TypeError, match="release takes a model"):
            tf_model_pool.release(wrong)
    tf_model_pool.release(model)


def test_it_works_without_pools(ctr: Path) -> None:
    program = (
        "import sys, tensorflow as tf, tf_model_pool\n"
        "assert not tf_model_pool.is_active()\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "sys.exit(tf_model_pool.release(model) == 0)\n"
    )
    environment = {**child_environment("onednn"), "TF_MODEL_POOL": "off"}
    run_to_end([sys.executable, "-W", "ignore", "-c", program, str(ctr)], environment)
