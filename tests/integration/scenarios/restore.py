# SPDX-License-Identifier: Apache-2.0
"""Restores of good and bad checkpoints, recorded for the comparison with released TensorFlow.

What is recorded: type, shape and bytes of every tensor, or class, status code and message.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from support.checkpoints import Restore, restores
from support.scenario import Context
from support.serving import bytes_in_use, pools, tf_model_pool, totals, v1


def _call(restore: Restore, prefix: str | list[str]) -> list[Any]:
    """Runs or adds to the graph the op of `restore`."""
    types = [tf.dtypes.as_dtype(name) for name in restore.types]
    if restore.op == "RestoreV2":
        return list(
            tf.raw_ops.RestoreV2(
                prefix=tf.constant(prefix, tf.string),
                tensor_names=list(restore.tensors),
                shape_and_slices=list(restore.slices or [""] * len(restore.tensors)),
                dtypes=types,
            )
        )
    arguments: dict[str, Any] = {
        "file_pattern": tf.constant(prefix, tf.string),
        "tensor_name": list(restore.tensors) if len(restore.tensors) > 1 else restore.tensors[0],
        "dt": types[0],
        "preferred_shard": restore.shard,
    }
    if restore.op == "RestoreSlice":
        return [tf.raw_ops.RestoreSlice(shape_and_slice=restore.slices[0], **arguments)]
    return [tf.raw_ops.Restore(**arguments)]


def _eagerly(restore: Restore, prefix: str) -> list[Any]:
    return [tensor.numpy() for tensor in _call(restore, prefix)]


def _in_session(intra_threads: int) -> Callable[[Restore, str], list[Any]]:
    def run(restore: Restore, prefix: str) -> list[Any]:
        config = v1.ConfigProto(intra_op_parallelism_threads=intra_threads)
        with tf.Graph().as_default(), v1.Session(config=config) as session:
            results: list[Any] = session.run(_call(restore, prefix))
            return results

    return run


def _describe(error: Exception) -> list[object]:
    """Class, status code, message without the place of the call in this program."""
    # A graph's errors quote this program's and TensorFlow's source lines, which are indented.
    lines = str(getattr(error, "message", error)).splitlines()
    message = "\n".join(line for line in lines if not line.startswith("    "))
    return [type(error).__name__, getattr(error, "error_code", None), message]


class _Restores:
    def __init__(self, context: Context) -> None:
        self.context = context

    def eager(self) -> None:
        self._compare(_eagerly)

    def session(self) -> None:
        self._compare(_in_session(0))

    def session_with_intra_op_threads_set(self) -> None:
        self._compare(_in_session(3))

    def _compare(self, run: Callable[[Restore, str], list[Any]]) -> None:
        unexpected = []
        for restore in restores():
            prefix = str(self.context.checkpoints / restore.prefix)
            works = True
            try:
                for index, array in enumerate(run(restore, prefix)):
                    self.context.record_array(f"{restore.name}:{index}", np.asarray(array))
                del array
            except Exception as error:
                works = False
                self.context.record(restore.name, _describe(error))
                # Its frames hold what was restored before the error.
                error.__traceback__ = None
            if restore.works not in (works, None):
                unexpected.append(restore.name)
            self._assert_drained(restore.name)
        assert unexpected == [], f"these succeed or fail against expectation: {unexpected}"

    def _assert_drained(self, name: str) -> None:
        if bytes_in_use():
            gc.collect()
        assert bytes_in_use() == 0, f"{name} leaves bytes: {[p for p in pools() if p.bytes_in_use]}"
        assert all(stats.state == "standby" for stats in pools()), name


class Restores(_Restores):
    """With pools as they are by default."""

    PYTHONS = ("stock", "patched")

    def saved_models_with_damaged_variables(self) -> None:
        for damage in ("flipped", "truncated", "missing"):
            for part in ("variables.data-00000-of-00001", "variables.index"):
                directory = self.context.checkpoints / "saved_models" / f"{part}.{damage}" / "1"
                try:
                    tf.saved_model.load(str(directory))
                except Exception as error:
                    self.context.record(f"{damage}/{part}", _describe(error))
                    error.__traceback__ = None
                else:
                    raise AssertionError(f"{directory} loads")
                gc.collect()
                self._assert_drained(str(directory))

    def variants_are_restored(self) -> None:
        # Not copied as bytes, as strings are not; TensorFlow keeps lists of tensors in them.
        values = tf.random.stateless_normal([5, 1000], [1, 2])
        saved = tf.raw_ops.TensorListFromTensor(tensor=values, element_shape=[1000])
        prefix = str(self.context.directory / "variant")
        tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=["list"], shape_and_slices=[""], tensors=[saved]
        )
        (restored,) = tf.raw_ops.RestoreV2(
            prefix=prefix, tensor_names=["list"], shape_and_slices=[""], dtypes=[tf.variant]
        )
        stacked = tf.raw_ops.TensorListStack(
            input_handle=restored, element_shape=[1000], element_dtype=tf.float32
        )
        self.context.record_array("list", stacked.numpy())
        del restored
        self._assert_drained("a variant")

    def prefixes_that_are_not_scalars(self) -> None:
        prefix = str(self.context.checkpoints / "types")
        for count in (0, 1, 2):
            for op in ("RestoreV2", "Restore"):
                restore = Restore("vector", "", ("matrix",), ("float32",), None, op=op)
                try:
                    (tensor,) = _call(restore, [prefix] * count)
                    self.context.record_array(f"{op}/{count}", tensor.numpy())
                    del tensor
                except Exception as error:
                    self.context.record(f"{op}/{count}", _describe(error))
                    error.__traceback__ = None
        self._assert_drained("a prefix that is a vector")

    def variables_of_another_shape(self) -> None:
        prefix = str(self.context.checkpoints / "types")
        for use_resource in (True, False):
            with tf.Graph().as_default(), v1.Session() as session:
                matrix = v1.get_variable("matrix", [3, 5], use_resource=use_resource)
                try:
                    v1.train.Saver().restore(session, prefix)
                    # TensorFlow lets a resource variable change its shape here.
                    self.context.record_array(f"resource={use_resource}", session.run(matrix))
                except Exception as error:
                    self.context.record(f"resource={use_resource}", _describe(error))
                    error.__traceback__ = None
            gc.collect()
            self._assert_drained("another shape")
        checkpoint = tf.train.Checkpoint(table=tf.Variable(tf.ones([4, 4])))
        path = checkpoint.write(str(self.context.directory / "shape"))
        try:
            tf.train.Checkpoint(table=tf.Variable(tf.ones([4, 5]))).read(path).assert_consumed()
        except Exception as error:
            self.context.record("eager", _describe(error))
            error.__traceback__ = None
        else:
            raise AssertionError("restored a table of another shape")
        gc.collect()
        self._assert_drained("another shape")

    def savers_with_shards_and_both_formats(self) -> None:
        config = v1.ConfigProto(device_count={"CPU": 2})
        for version in (v1.train.SaverDef.V1, v1.train.SaverDef.V2):
            for sharded in (False, True):
                label = f"V{version}/sharded={sharded}"
                with tf.Graph().as_default(), v1.Session(config=config) as session:
                    tables = []
                    for device in range(2):
                        with tf.device(f"/cpu:{device}"):
                            tables.append(
                                v1.get_variable(
                                    f"table_{device}",
                                    [1000, 8],
                                    partitioner=v1.fixed_size_partitioner(3),
                                    initializer=v1.random_normal_initializer(seed=device + 1),
                                    use_resource=True,
                                )
                            )
                    saver = v1.train.Saver(sharded=sharded, write_version=version)
                    session.run(v1.global_variables_initializer())
                    values = [tf.convert_to_tensor(table) for table in tables]
                    before = session.run(values)
                    path = saver.save(session, str(self.context.directory / f"s{version}{sharded}"))
                    session.run([part.assign(part * 0.0) for table in tables for part in table])
                    saver.restore(session, path)
                    for index, array in enumerate(session.run(values)):
                        assert np.array_equal(array, before[index]), label
                        self.context.record_array(f"{label}/{index}", array)

    def pools_were_used(self) -> None:
        # Otherwise the comparison says nothing.
        if tf_model_pool is not None:
            assert totals().num_mappings > 0
            assert totals().fallback_loads == 0
            assert sum(stats.num_loads for stats in pools()) > len(restores())


class RestoresBeyondTheLimit(_Restores):
    """With pools too small for some of the tensors: those lie elsewhere and are the same."""

    SETTINGS = ("TF_MODEL_POOL_LIMIT_MB=2",)
    MODES = ("onednn",)
    PYTHONS = ("stock", "patched")


class RestoresWithPoolsOff(_Restores):
    """With `TF_MODEL_POOL=off`."""

    SETTINGS = ("TF_MODEL_POOL=off",)
    MODES = ("onednn",)
    PYTHONS = ("stock", "patched")
