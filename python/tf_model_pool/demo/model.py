# SPDX-License-Identifier: Apache-2.0
"""The demonstration's model: two tables of embeddings, a layer, a score for each candidate."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
from pathlib import Path
from typing import Any

from tf_model_pool.errors import ModelPoolError

_WIDTH = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """Rows of the tables."""

    users: int
    items: int


def weight_bytes(size: Size) -> int:
    """The bytes of one version's variables."""
    return 4 * (size.users * _WIDTH + size.items * _WIDTH + _WIDTH * _WIDTH + _WIDTH) + 8


def save_version(directory: Path, version: int, size: Size) -> None:
    """Saves `<directory>/<version>` as a SavedModel; each version has weights of its own.

    They are small integers, so that answers are exact, whatever the order of summation.

    Raises:
        ModelPoolError: it cannot be written; nothing of it is left.
    """
    tf: Any = importlib.import_module("tensorflow")

    def weights(shape: list[int], salt: int) -> Any:
        drawn = tf.random.stateless_uniform(
            shape, seed=[version, salt], minval=-3, maxval=4, dtype=tf.int32
        )
        return tf.cast(drawn, tf.float32)

    module = tf.Module()
    module.users = tf.Variable(weights([size.users, _WIDTH], 1), name="users")
    module.items = tf.Variable(weights([size.items, _WIDTH], 2), name="items")
    module.kernel = tf.Variable(weights([_WIDTH, _WIDTH], 3), name="kernel")
    module.bias = tf.Variable(weights([_WIDTH], 4), name="bias")
    module.version = tf.Variable(version, dtype=tf.int64, trainable=False, name="version")

    def score(user: Any, item: Any) -> Any:
        hidden = tf.nn.relu(tf.gather(module.users, user) @ module.kernel + module.bias)
        return {"score": tf.reduce_sum(hidden * tf.gather(module.items, item), axis=1)}

    ids = tf.TensorSpec([None], tf.int32)
    module.score = tf.function(score, input_signature=[ids, ids])
    path = directory / str(version)
    try:
        tf.saved_model.save(module, str(path), signatures=module.score)
    except BaseException as error:
        shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, (OSError, tf.errors.OpError)):
            raise ModelPoolError(f"cannot save {path}: {' '.join(str(error).split())}") from error
        raise
