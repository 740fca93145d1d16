# SPDX-License-Identifier: Apache-2.0
"""Ways to load and run a model in Python, and the requests for it."""

from __future__ import annotations

import gc
from typing import Any, Protocol

import numpy as np


class Way(Protocol):
    """How a model is loaded, run and given up."""

    def load(self, directory: str) -> Any:
        """Loads a version."""

    def run(self, model: Any, inputs: dict[str, Any]) -> list[Any]:
        """The outputs of the signature, as arrays."""

    def unload(self, model: Any) -> None:
        """Gives a version's memory back; no request is on it."""


class Eager:
    """`tf.saved_model.load`, a signature called with tensors, `gc.collect` in the end."""

    def __init__(self, model: dict[str, Any]) -> None:
        import tensorflow as tf

        self._tf = tf
        self._signature = model.get("signature", "serving_default")
        self._tags = model.get("tags", ["serve"])

    def load(self, directory: str) -> Any:
        loaded = self._tf.saved_model.load(directory, tags=self._tags)
        return [loaded, loaded.signatures[self._signature]]

    def run(self, model: Any, inputs: dict[str, Any]) -> list[Any]:
        constant = self._tf.constant
        answer = model[1](**{name: constant(value) for name, value in inputs.items()})
        return [value.numpy() for value in answer.values()]

    def unload(self, model: list[Any]) -> None:
        model.clear()
        # Without it nothing is ever freed: the model is garbage with cycles.
        gc.collect()


class Load:
    """`tf_model_pool.load` and `close`."""

    def __init__(self, model: dict[str, Any]) -> None:
        import tf_model_pool

        self._package = tf_model_pool
        self._signature = model.get("signature", "serving_default")
        self._tags = tuple(model.get("tags", ["serve"]))

    def load(self, directory: str) -> Any:
        return self._package.load(directory, tags=self._tags)

    def run(self, model: Any, inputs: dict[str, Any]) -> list[Any]:
        return list(model.signatures[self._signature](inputs).values())

    def unload(self, model: Any) -> None:
        model.close()


def read_requests(path: str) -> list[dict[str, Any]]:
    """Inputs by name, of every `RunGraphRequest` in a file of TFRecords."""
    import tensorflow as tf
    from tensorflow.core.protobuf import named_tensor_pb2

    found = []
    for record in tf.data.TFRecordDataset(path):
        data, at, inputs = record.numpy(), 0, {}
        while at < len(data):  # field 3, `send`, alone: a key and a length before each
            size, shift, at = 0, 0, at + 1
            while True:
                byte = data[at]
                size, shift, at = size | (byte & 0x7F) << shift, shift + 7, at + 1
                if byte < 0x80:
                    break
            item = named_tensor_pb2.NamedTensorProto.FromString(data[at : at + size])
            inputs[item.name] = tf.make_ndarray(item.tensor)
            at += size
        found.append(inputs)
    return found


def checksum(outputs: list[Any]) -> float:
    """The sum of all elements, as the native driver adds them up; a string counts as its length."""
    total = 0.0
    for value in outputs:
        if value.dtype.kind == "O":
            total += float(sum(len(each) for each in value.ravel()))
        else:
            total += float(value.sum(dtype=np.float64))
    return total
