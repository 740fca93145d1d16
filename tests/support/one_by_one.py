# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of many variables in many shards, restored by an op for every variable.

Run as a program in an environment that has TensorFlow:
`python -m support.one_by_one write|deferred|parallel|replaced PREFIX`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

VARIABLES, SHARDS, SIDE = 1000, 64, 16


def _key(index: int) -> str:
    return f"v{index}/.ATTRIBUTES/VARIABLE_VALUE"


def _save(prefix: str, shards: Sequence[Mapping[str, Any]]) -> None:
    import tensorflow as tf

    parts = [f"{prefix}_part_{i}" for i in range(len(shards))]
    for part, tensors in zip(parts, shards, strict=True):
        tf.raw_ops.SaveV2(
            prefix=part,
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=list(tensors.values()),
        )
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=prefix, delete_old_dirs=False
    )


def write(prefix: str) -> None:
    """Writes the checkpoint, as object-based checkpoints are."""
    import tensorflow as tf

    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    values = {f"v{i}": tf.fill([SIDE, SIDE], float(i)) for i in range(VARIABLES)}
    whole = tf.train.Checkpoint(**{n: tf.Variable(v) for n, v in values.items()}).write(prefix)
    graph = "_CHECKPOINTABLE_OBJECT_GRAPH"
    shards: list[dict[str, Any]] = [{} for _ in range(SHARDS)]
    shards[0][graph] = tf.train.load_checkpoint(whole).get_tensor(graph)
    for i, value in enumerate(values.values()):
        shards[i % SHARDS][_key(i)] = value
    for file in Path(prefix).parent.glob(f"{Path(prefix).name}.*"):
        file.unlink()
    _save(prefix, shards)


def _restore(prefix: str, key: str) -> Any:
    import tensorflow as tf

    return tf.raw_ops.RestoreV2(
        prefix=prefix, tensor_names=[key], shape_and_slices=[""], dtypes=[tf.float32]
    )[0]


def deferred(prefix: str) -> None:
    """Restores each variable when it is made."""
    import tensorflow as tf

    checkpoint = tf.train.Checkpoint()
    checkpoint.restore(prefix)
    made = []
    for i in range(VARIABLES):
        made.append(tf.Variable(tf.zeros([SIDE, SIDE])))
        setattr(checkpoint, f"v{i}", made[-1])
    assert [float(each[-1, -1]) for each in made] == list(range(VARIABLES))


def parallel(prefix: str) -> None:
    """Restores the variables with ops that run at the same time."""
    with ThreadPoolExecutor(max_workers=8) as executor:
        made = list(executor.map(lambda i: _restore(prefix, _key(i)), range(VARIABLES)))
    assert [float(each[-1, -1]) for each in made] == list(range(VARIABLES))


def replaced(prefix: str) -> None:
    """Restores, while another checkpoint takes the place of the one before, and again."""
    import tensorflow as tf

    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    for side, names in ((8, "ab"), (64, "abc"), (2, "ac")):
        tensors = {name: tf.fill([side, side], float(side)) for name in names}
        _save(prefix, [tensors])
        for name in names * 2:
            value = _restore(prefix, name).numpy()
            assert (value.shape, set(value.flat)) == ((side, side), {side}), name


COMMANDS: dict[str, Callable[[str], None]] = {
    each.__name__: each for each in (write, deferred, parallel, replaced)
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](sys.argv[2])
