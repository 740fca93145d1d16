# SPDX-License-Identifier: Apache-2.0
"""Frees what `tf.saved_model.load` made, without the garbage collector.

An eagerly loaded model is full of reference cycles: after the last reference its variables stay
until a collection finds them, and a collection holds the interpreter's lock. Destroying a
variable's resource frees nothing while its handle lives. So each variable gets an empty value: its
buffer goes as soon as no running call reads it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

from tf_model_pool.hot_model import HotModel
from tf_model_pool.load import LoadedModel

#: What a string tensor holds for each element, apart from long texts.
_STRING_BYTES = 24


def release(model: Any) -> int:
    """Frees the variables of an eagerly loaded model at once.

        new = tf_model_pool.run_at_load_priority(tf.saved_model.load, path)
        old, serving = serving, new
        tf_model_pool.release(old)

    Every resource variable that the model tracks is set to an empty value, so that its memory goes
    back to its pool (or to the device's allocator) when this returns, or when the calls that read
    it then have ended. What calls the model after that gets TensorFlow's error about empty values,
    `InvalidArgumentError` as a rule. Variables that it shares with another model are empty there
    as well. Constants and lookup tables stay until Python drops the model. Needs no pools.

    Args:
        model: what `tf.saved_model.load` returned, or another trackable object of TensorFlow's
            that holds variables: a `tf.Module`, a Keras model.

    Returns:
        Bytes given back: 0 if the model was released before. Of strings, 24 for each element,
        whatever their length.

    Raises:
        TypeError: `model` is no such object, or belongs to a graph.
    """
    tf: Any = importlib.import_module("tensorflow")
    _check(model, tf)
    released = 0
    # The caller may be building a graph or tracing a function.
    with tf.__internal__.eager_context.eager_mode():
        for variable in _variables(model, tf):
            released += _empty(variable, tf)
    return released


def _check(model: Any, tf: Any) -> None:
    kind = f"{type(model).__module__}.{type(model).__qualname__}".removeprefix("builtins.")
    expected = f"release takes a model that tf.saved_model.load returned, not {kind}"
    if isinstance(model, (LoadedModel, HotModel)):
        raise TypeError(f"{expected}: call its close()")
    functions = (tf.types.experimental.PolymorphicFunction, tf.types.experimental.ConcreteFunction)
    if isinstance(model, (tf.Variable, *functions)):
        raise TypeError(f"{expected}: give the model that it belongs to")
    if not isinstance(model, tf.__internal__.tracking.Trackable):
        raise TypeError(expected)


def _variables(model: Any, tf: Any) -> Iterator[Any]:
    """Each variable once: those that the model tracks, and those that it names itself."""
    left = list(tf.train.TrackableView(model).descendants())
    named = getattr(model, "variables", ())
    left += named if isinstance(named, Iterable) else ()
    seen: set[int] = set()
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        parts = getattr(each, "values", None)
        if isinstance(parts, tuple):  # a variable with a copy on each device
            left += parts
        elif isinstance(each, tf.Variable):
            yield each
        elif isinstance(getattr(each, "value", None), tf.Variable):  # a variable of Keras
            left.append(each.value)


def _empty(variable: Any, tf: Any) -> int:
    """Gives a variable the empty value; returns the bytes of the value before."""
    handle, dtype = variable.handle, variable.dtype
    if not isinstance(handle, tf.__internal__.EagerTensor):
        raise TypeError(
            f"the variable {variable.name} belongs to a graph: release takes models that were "
            "loaded eagerly; close the session of the others"
        )
    if dtype == tf.variant or not tf.raw_ops.VarIsInitializedOp(resource=handle).numpy():
        return 0
    shape = tf.raw_ops.VariableShape(input=handle, out_type=tf.int64).numpy()
    # Not Fill or Empty: they lack kernels for some of the types that variables can have.
    nothing = tf.constant([], dtype, shape=[0])
    tf.raw_ops.AssignVariableOp(resource=handle, value=nothing, validate_shape=False)
    each = _STRING_BYTES if dtype == tf.string else int(dtype.size)
    return each * math.prod(map(int, shape))
