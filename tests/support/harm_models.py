# SPDX-License-Identifier: Apache-2.0
"""SavedModels that a load could do harm with.

Run as a program in an environment that has TensorFlow: `python -m support.harm_models DIRECTORY`
writes each under DIRECTORY as `<model>/1`.
"""

from __future__ import annotations

import sys
from pathlib import Path

WIDTH = 64
#: Of the tables of `table`, 12 MiB, and `large`, 256 MiB, and the constant of `frozen`, 32 MiB.
TABLE_ROWS = {"table": 49152, "large": 1048576}
CONSTANT_ROWS = 131072


def save_all(root: Path) -> None:
    """Writes every model below `root`."""
    import numpy as np
    import tensorflow as tf

    def save(name: str, module: tf.Module, function: object) -> None:
        spec = tf.TensorSpec([None, WIDTH], tf.float32, name="x")
        concrete = function.get_concrete_function(spec)  # type: ignore[attr-defined]
        tf.saved_model.save(module, str(root / name / "1"), signatures=concrete)

    def dense() -> tf.Module:
        module = tf.Module()
        module.kernel = tf.Variable(tf.ones([WIDTH, WIDTH]), name="kernel")
        return module

    batching = dense()

    @tf.nondifferentiable_batch_function(
        num_batch_threads=2, max_batch_size=16, batch_timeout_micros=100
    )
    def batched(x: tf.Tensor) -> tf.Tensor:
        return x @ batching.kernel

    save("batching", batching, tf.function(lambda x: {"y": batched(x)}))

    compiled = dense()

    @tf.function(jit_compile=True)
    def cluster(x: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(x @ compiled.kernel)

    save("xla", compiled, tf.function(lambda x: {"y": cluster(x)}))

    data = dense()

    def pipeline(x: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.data.Dataset.from_tensor_slices(x)
        rows = rows.map(lambda row: row * 2, num_parallel_calls=2).prefetch(2)
        return {"y": rows.reduce(tf.zeros([WIDTH]), lambda a, b: a + b) + data.kernel[0]}

    save("data", data, tf.function(pipeline))

    def save_table(name: str, rows: int) -> None:
        table = tf.Module()
        table.rows = tf.Variable(np.ones([rows, WIDTH], np.float32), name="rows")
        table.small = [tf.Variable(tf.ones([WIDTH]), name=f"small_{i}") for i in range(100)]

        def look_up(x: tf.Tensor) -> dict[str, tf.Tensor]:
            found = tf.gather(table.rows, tf.cast(x[:, 0], tf.int32))
            return {"y": found + tf.add_n([tf.identity(v) for v in table.small])}

        save(name, table, tf.function(look_up))

    for name, rows in TABLE_ROWS.items():
        save_table(name, rows)

    rng = np.random.default_rng(1)
    values = rng.standard_normal([CONSTANT_ROWS, WIDTH], dtype=np.float32)

    def constant(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.gather(tf.constant(values), tf.cast(x[:, 0], tf.int32)) + x}

    save("frozen", tf.Module(), tf.function(constant))


if __name__ == "__main__":
    save_all(Path(sys.argv[1]))
