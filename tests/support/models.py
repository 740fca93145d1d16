# SPDX-License-Identifier: Apache-2.0
"""SavedModels for the tests, made with TensorFlow's own writers.

Run as a program in an environment that has TensorFlow: `python -m support.models DIRECTORY`
writes every model of `CATALOGUE` under DIRECTORY as `<model>/<version>`.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

FIELDS = 8
HIDDEN = 64
BATCH = 512


@dataclasses.dataclass(frozen=True)
class Spec:
    """Size and kind of one model.

    `rows` is the length of the larger embedding table, `small` the number of small variables.
    With `exact`, weights are small integers, so that float32 answers do not depend on the order
    of summation and numpy can say what is right.
    """

    rows: int
    dim: int = 16
    small: int = 24
    exact: bool = False


#: More than 16 Mi elements make TensorFlow restore a tensor on its own thread pool.
BIG_ROWS = (1 << 20) + 4096

CATALOGUE: dict[str, tuple[Spec, ...]] = {
    "ctr": (Spec(rows=32768),) * 4,
    "exact": (Spec(rows=32768, exact=True),) * 4,
    "big": (Spec(rows=BIG_ROWS, small=4),) * 3,
    # Every version three times as large as the one before, or a third of it.
    "growing": (Spec(rows=8192), Spec(rows=24576), Spec(rows=73728)),
    "shrinking": (Spec(rows=73728), Spec(rows=24576), Spec(rows=8192)),
}
V1_MODELS: dict[str, int] = {
    "v1_resource": 3,
    "v1_partitioned": 2,
    "v1_reference": 2,
    # Weights that are constants of the graph: all of them, or a table next to variables.
    "v1_frozen": 3,
    "v1_constants": 2,
}
V1_ROWS = 16384
V1_DIM = 16


def weights(spec: Spec, version: int) -> dict[str, np.ndarray[Any, Any]]:
    """The weights of one version; other versions have other weights."""
    rng = np.random.default_rng([version, spec.rows, spec.exact])

    def draw(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        if spec.exact:
            return rng.integers(-3, 4, size=shape).astype(np.float32)
        return rng.standard_normal(shape, dtype=np.float32)

    values = {
        "user": draw((spec.rows, spec.dim)),
        "item": draw((spec.rows // 4, spec.dim)),
        "kernel": draw((2 * FIELDS * spec.dim, HIDDEN)),
    }
    for index in range(spec.small):
        values[f"small_{index}"] = draw((HIDDEN,))
    # The mark that tells versions apart in an exact model's answer.
    values["small_0"] += np.float32(1000 * version)
    return values


def constant_table(version: int) -> np.ndarray[Any, Any]:
    """The table that is a constant of a version of v1_frozen or v1_constants."""
    rng = np.random.default_rng([version, 3])
    return rng.standard_normal((V1_ROWS, V1_DIM), dtype=np.float32)


def request(index: int, batch: int = BATCH) -> np.ndarray[Any, Any]:
    """Feature ids of request `index`: int32 `[batch, FIELDS]`."""
    rng = np.random.default_rng([7, index])
    return rng.integers(0, 1 << 30, size=(batch, FIELDS), dtype=np.int32)


def exact_score(
    values: dict[str, np.ndarray[Any, Any]], ids: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """What an exact model answers to `ids`, computed without TensorFlow."""
    user, item = values["user"], values["item"]
    embedded = np.concatenate([user[ids % len(user)], item[ids % len(item)]], axis=1)
    hidden = embedded.reshape(len(ids), -1).astype(np.float64) @ values["kernel"]
    hidden = np.maximum(hidden, 0)
    hidden += sum(value for name, value in values.items() if name.startswith("small_"))
    return np.asarray(hidden.sum(axis=1).astype(np.float32))


def save_ctr(directory: Path, spec: Spec, version: int) -> None:
    """Writes a click-through model: two embedding tables, a dense layer, small variables."""
    import tensorflow as tf

    values = weights(spec, version)
    ids_spec = tf.TensorSpec([None, FIELDS], tf.int32, name="ids")

    class Ctr(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="ctr")
            self.user = tf.Variable(values["user"], name="user")
            self.item = tf.Variable(values["item"], name="item")
            self.kernel = tf.Variable(values["kernel"], name="kernel")
            self.small = [
                tf.Variable(values[f"small_{i}"], name=f"small_{i}") for i in range(spec.small)
            ]
            self.step = tf.Variable(version, dtype=tf.int64, name="step")
            self.labels = tf.Variable([f"v{version}", "ctr", ""], name="labels")
            self.empty = tf.Variable(tf.zeros([0, spec.dim]), name="empty")

        @tf.function(input_signature=[ids_spec])  # type: ignore[untyped-decorator]
        def serve(self, ids: Any) -> dict[str, Any]:
            user = tf.gather(self.user, ids % spec.rows)
            item = tf.gather(self.item, ids % (spec.rows // 4))
            embedded = tf.reshape(
                tf.concat([user, item], axis=1), [-1, 2 * FIELDS * spec.dim], name="embedded"
            )
            hidden = tf.nn.relu(tf.matmul(embedded, self.kernel)) + tf.add_n(self.small)
            return {"score": tf.reduce_sum(hidden, axis=1), "hidden": hidden}

        @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
        def describe(self) -> dict[str, Any]:
            empty = tf.shape(self.empty)[0]
            return {"step": self.step + tf.cast(empty, tf.int64), "labels": self.labels + "!"}

    model = Ctr()
    tf.saved_model.save(
        model,
        str(directory),
        signatures={"serving_default": model.serve, "describe": model.describe},
    )


def save_v1(directory: Path, kind: str, version: int) -> None:
    """Writes a TF1 SavedModel with variables of one kind, constants, or both."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        ids = v1.placeholder(tf.int32, [None, FIELDS], name="ids")
        partitioner = v1.fixed_size_partitioner(4) if kind == "v1_partitioned" else None
        with v1.variable_scope("ctr", use_resource=kind != "v1_reference", partitioner=partitioner):
            normal = v1.random_normal_initializer(seed=version)
            if kind in ("v1_frozen", "v1_constants"):
                table = tf.constant(constant_table(version), name="user")
            else:
                table = v1.get_variable("user", [V1_ROWS, V1_DIM], initializer=normal)
            if kind == "v1_frozen":
                # Grappler folds the product; the factors are gone from what runs.
                half = np.random.default_rng(version).standard_normal((V1_DIM, HIDDEN))
                kernel = tf.constant(half.astype(np.float32), name="half") * 2.0
            else:
                kernel = v1.get_variable("kernel", [V1_DIM, HIDDEN], initializer=normal)
        if kind == "v1_partitioned":
            kernel = tf.convert_to_tensor(kernel)
        # Ids come in ranges of any size; a partitioned table wants them within its rows.
        embedded = tf.reduce_sum(
            v1.nn.embedding_lookup(table, ids % V1_ROWS, partition_strategy="div"), axis=1
        )
        hidden = tf.nn.relu(tf.matmul(embedded, kernel), name="hidden")
        score = tf.reduce_sum(hidden, axis=1, name="score")
        session.run(v1.global_variables_initializer())
        # Without variables this writes no checkpoint, and nothing will be restored.
        v1.saved_model.simple_save(
            session, str(directory), {"ids": ids}, {"score": score, "hidden": hidden}
        )


def build_all(root: Path) -> None:
    """Writes every model of the catalogue under `root`."""
    for name, specs in CATALOGUE.items():
        for version, spec in enumerate(specs, start=1):
            save_ctr(root / name / str(version), spec, version)
    for name, count in V1_MODELS.items():
        for version in range(1, count + 1):
            save_v1(root / name / str(version), name, version)


if __name__ == "__main__":
    build_all(Path(sys.argv[1]))
