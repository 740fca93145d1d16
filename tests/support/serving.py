# SPDX-License-Identifier: Apache-2.0
"""Loads models as programs do, and says where their tensors lie. Needs TensorFlow.

With the released TensorFlow there are no pools: every list of pools is empty.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from support.isolation import RequestTensor
from support.measure import wait_until
from support.models import request
from support.scenario import Context


def _find_package() -> Any:
    try:
        return importlib.import_module("tf_model_pool")
    except ModuleNotFoundError:
        return None


#: The package, None with the released TensorFlow.
tf_model_pool = _find_package()
v1 = tf.compat.v1


class Scenario:
    """A scenario class whose checks leave every pool empty."""

    def __init__(self, context: Context) -> None:
        self.context = context
        _contexts.append(context)

    def _after_check(self) -> None:
        wait_until_drained()


_contexts: list[Context] = []


def pools(name: str | None = None) -> list[Any]:
    """The pools of this process; with `name`, those of that name whose model is this check's.

    Checks that ran before in this process leave standby pools.
    """
    if tf_model_pool is None:
        return []
    found: list[Any] = tf_model_pool.pools()
    if name is None:
        return found
    own = _contexts[-1].directory
    return [p for p in found if p.name == name and Path(p.model_dir).is_relative_to(own)]


def pool(name: str) -> Any:
    """The one pool called `name`. Raises AssertionError if there is none, or more."""
    found = pools(name)
    assert len(found) == 1, f"{len(found)} pools are called {name}: {pools()}"
    return found[0]


def totals() -> Any:
    """The process as a whole."""
    return tf_model_pool.totals()


def pool_of(address: int) -> str | None:
    """Name of the pool that `address` lies in."""
    name: str | None = tf_model_pool.pool_of(address)
    return name


def address_of(tensor: Any) -> int:
    """Address of the buffer of an eager tensor that is not a string."""
    # TensorFlow copies a scalar for Python, and shares the buffer of everything else.
    if tensor.shape.rank == 0:
        tensor = tf.reshape(tensor, [1])
    return int(np.asarray(memoryview(tensor)).ctypes.data)


def bytes_in_use() -> int:
    """Bytes that tensors hold in all pools."""
    return sum(pool.bytes_in_use for pool in pools())


def wait_until_drained(under: Path = Path("/")) -> None:
    """Returns when no tensor lies in any pool of a model under the directory `under`."""

    def filled() -> list[Any]:
        return [
            stats
            for stats in pools()
            if (stats.bytes_in_use or stats.state == "loading")
            and Path(stats.model_dir).is_relative_to(under)
        ]

    def drained() -> bool:
        gc.collect()
        return not filled()

    try:
        wait_until("pools to drain", drained)
    except TimeoutError as error:
        raise AssertionError(f"pools keep bytes: {filled()}") from error


class EagerModel:
    """A version loaded with `tf.saved_model.load`."""

    def __init__(self, directory: Path) -> None:
        self.loaded = tf.saved_model.load(str(directory))
        # Now: the first gather from a table makes TensorFlow copy it for every later read.
        self._addresses = self._find_addresses()

    @property
    def variables(self) -> dict[str, Any]:
        """Every variable of the model by name."""
        descendants = tf.train.TrackableView(self.loaded).descendants()
        return {item.name: item for item in descendants if isinstance(item, tf.Variable)}

    def addresses(self) -> dict[str, int]:
        """Where the weights lay after loading: numeric variables that have elements."""
        return self._addresses

    def _find_addresses(self) -> dict[str, int]:
        return {
            name: address_of(variable.read_value())
            for name, variable in self.variables.items()
            if variable.dtype != tf.string and variable.shape.num_elements()
        }

    def weight_bytes(self) -> int:
        """Bytes of all numeric variables."""
        return sum(
            variable.shape.num_elements() * variable.dtype.size
            for variable in self.variables.values()
            if variable.dtype != tf.string
        )

    def run(self, ids: Any) -> dict[str, Any]:
        """The tensors that the model answers with."""
        outputs: dict[str, Any] = self.loaded.signatures["serving_default"](ids=tf.constant(ids))
        return outputs

    def score(self, ids: Any) -> np.ndarray[Any, Any]:
        """The answer to a request."""
        return np.asarray(self.run(ids)["score"].numpy())


class SessionModel:
    """A version loaded with `tf.compat.v1.saved_model.load` in a Session of its own."""

    def __init__(self, directory: Path, intra_threads: int = 0) -> None:
        self._graph = tf.Graph()
        with self._graph.as_default():
            self.session = v1.Session(
                config=v1.ConfigProto(intra_op_parallelism_threads=intra_threads)
            )
            meta_graph = v1.saved_model.load(self.session, ["serve"], str(directory))
        self._signature = meta_graph.signature_def["serving_default"]

    def close(self) -> None:
        """Ends the session; its variables go with it."""
        self.session.close()
        del self.session

    def _traced(self, fetches: Any, feed: dict[str, Any]) -> list[tuple[str, RequestTensor]]:
        metadata = v1.RunMetadata()
        self.session.run(
            fetches,
            feed,
            options=v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE),
            run_metadata=metadata,
        )
        return traced_tensors(metadata.step_stats)

    def addresses(self) -> dict[str, int]:
        """Where the weights lie, by the name of the node that reads them."""
        reads = {
            operation.name: operation.outputs[0]
            for operation in self._graph.get_operations()
            if operation.type == "ReadVariableOp"
            and operation.name.endswith("/Read/ReadVariableOp")
        }
        traced = self._traced(list(reads.values()), {})
        return {
            tensor.name: tensor.address
            for kind, tensor in traced
            if kind == "output" and tensor.name in reads and tensor.size_bytes
        }

    def feed(self, ids: Any) -> dict[str, Any]:
        """A request's ids under the name of the graph's placeholder."""
        return {self._signature.inputs["ids"].name: ids}

    def request_tensors(self, ids: Any) -> list[RequestTensor]:
        """Every tensor that one request makes, with the allocator that made it."""
        fetches = [info.name for info in self._signature.outputs.values()]
        return [tensor for _, tensor in self._traced(fetches, self.feed(ids))]

    def run(self, ids: Any) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays that the model answers with."""
        fetches = {name: info.name for name, info in self._signature.outputs.items()}
        outputs: dict[str, np.ndarray[Any, Any]] = self.session.run(fetches, self.feed(ids))
        return outputs


def traced_tensors(step_stats: Any) -> list[tuple[str, RequestTensor]]:
    """("allocation" or "output", tensor) for everything that a traced step touched."""
    tensors = []
    for device in step_stats.dev_stats:
        for node in device.node_stats:
            for memory in node.memory:
                tensors.append(
                    (
                        "allocation",
                        RequestTensor(node.node_name, memory.allocator_name, 0, memory.total_bytes),
                    )
                )
            for output in node.output:
                buffer = output.tensor_description.allocation_description
                tensors.append(
                    (
                        "output",
                        RequestTensor(
                            node.node_name,
                            buffer.allocator_name,
                            buffer.ptr,
                            buffer.requested_bytes,
                        ),
                    )
                )
    return tensors


@contextlib.contextmanager
def session_models(*directories: Path, intra_threads: int = 0) -> Iterator[list[SessionModel]]:
    """Loads each directory in a session of its own; closes the ones still open."""
    models = [SessionModel(directory, intra_threads) for directory in directories]
    try:
        yield models
    finally:
        for model in models:
            if hasattr(model, "session"):
                model.close()


def eager_op_tensors(model: EagerModel) -> list[RequestTensor]:
    """A request's tensors when its operations run one by one."""
    ids = tf.constant(request(0))
    embedded = tf.gather(model.loaded.user, ids % model.loaded.user.shape[0])
    flat = tf.reshape(embedded * 2.0, [len(ids), -1])
    outputs = model.run(ids)
    tensors = {"ids": ids, "embedded": embedded, "flat": flat, **outputs}
    return [
        RequestTensor(name, "", address_of(tensor), tensor.shape.num_elements() * tensor.dtype.size)
        for name, tensor in tensors.items()
    ]
