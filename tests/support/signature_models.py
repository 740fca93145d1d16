# SPDX-License-Identifier: Apache-2.0
"""SavedModels with inputs and outputs of every kind.

Run as a program in an environment that has TensorFlow: `python -m support.signature_models
DIRECTORY` writes each under DIRECTORY as `<model>/1`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

#: An echo of each is in the model `types`.
TYPES = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
#: Those for which TensorFlow has few operations: they are given back as they came.
NARROW_TYPES = ("float8_e4m3fn", "float8_e5m2", "int4", "uint4")
QUANTISED_TYPES = ("qint8", "quint8", "qint16", "quint16", "qint32")
WIDTH = 4
#: Of the signature `wide`: o0 is x, o1 is x + 1, ... More sets of them than are made ready.
WIDE_OUTPUTS = ("o0", "o1", "o2", "o3", "o4")
#: Above 64 MiB, and below a fifteenth of 1 GiB.
BYTES_OF_CONSTANTS = 72 << 20
#: What the model `reads` opens, the second once it has read the first: below its directory.
READS = ("first", "second")


def save_all(root: Path) -> None:
    """Writes every model below `root`."""
    import tensorflow as tf

    def signature(function: Any, **specs: Any) -> Any:
        inputs = {name: tf.TensorSpec(*spec, name=name) for name, spec in specs.items()}
        return tf.function(function).get_concrete_function(**inputs)

    def save(name: str, module: Any, **signatures: Any) -> None:
        tf.saved_model.save(module, str(root / name / "1"), signatures=signatures)

    module = tf.Module()
    module.kernel = tf.Variable(tf.range(WIDTH, dtype=tf.float32) + 1, name="kernel")
    module.counter = tf.Variable(0, dtype=tf.int64, name="counter")
    module.kept = tf.Variable(tf.zeros([0, WIDTH]), shape=[None, WIDTH], name="kept")

    def keep(x: Any) -> dict[str, Any]:
        module.kept.assign(x)
        return {"rows": tf.shape(module.kept)[0]}

    def fail(x: Any) -> dict[str, Any]:
        with tf.control_dependencies([tf.debugging.assert_less(x, 10.0, message="ten or more")]):
            return {"x": tf.identity(x)}

    row = ([None, WIDTH], tf.float32)
    save(
        "several",
        module,
        serving_default=signature(
            lambda a, b: {
                "sum": a + b,
                "weighted": tf.linalg.matvec(a, module.kernel),
                "twin": a + b,
            },
            a=row,
            b=row,
        ),
        rank=signature(lambda ids: {"order": tf.argsort(ids)}, ids=([None], tf.int32)),
        weights=signature(lambda: {"kernel": module.kernel.read_value()}),
        same=signature(lambda x: {"x": x, "again": tf.identity(x)}, x=row),
        scalar=signature(lambda x: {"z": x * 2}, x=([], tf.float32)),
        any_shape=signature(lambda x: {"rank": tf.rank(x)}, x=(None, tf.int64)),
        keep=signature(keep, x=row),
        fail=signature(fail, x=([], tf.float32)),
        count=signature(lambda: {"count": module.counter.assign_add(1)}),
        outputs=signature(lambda outputs: {"y": outputs + 1}, outputs=([], tf.int32)),
    )

    echoes = {
        f"of_{name}": signature(_echo, x=([None], tf.dtypes.as_dtype(name))) for name in TYPES
    }
    echoes |= {
        f"of_{name}": signature(
            lambda x: {"y": tf.identity(x)}, x=([None], tf.dtypes.as_dtype(name))
        )
        for name in (*NARROW_TYPES, *QUANTISED_TYPES)
    }
    echoes["of_string"] = signature(
        lambda x: {"y": x, "size": tf.strings.length(x), "joined": tf.strings.reduce_join(x)},
        x=([None], tf.string),
    )
    save("types", tf.Module(), **echoes)
    _save_selections(root, save, signature)


def _save_selections(root: Path, save: Any, signature: Any) -> None:
    """Writes models of which more than one set of outputs is called."""
    import numpy as np
    import tensorflow as tf

    def wide(x: Any) -> dict[str, Any]:
        return {name: x + float(index) for index, name in enumerate(WIDE_OUTPUTS)}

    numbers: dict[str, Any] = {"x": ([None], tf.float32)}
    save("wide", tf.Module(), serving_default=signature(wide, **numbers))

    table = np.ones([BYTES_OF_CONSTANTS // 4], np.float32)
    save(
        "constants",
        tf.Module(),
        serving_default=signature(
            lambda ids: {"y": tf.gather(tf.constant(table), ids)}, ids=([None], tf.int32)
        ),
        wide=signature(wide, **numbers),
    )

    before = {"a": 1.0, "b": 2.0, "c": 3.0}
    after = {"a": 10.0, "c": 30.0, "d": 40.0}
    for name, added in (("before", before), ("after", after)):
        signatures = {
            "serving_default": signature(
                lambda x, added=added: {key: x + value for key, value in added.items()}, **numbers
            )
        }
        if name == "before":
            signatures["rank"] = signature(lambda x: {"y": tf.argsort(x), "z": x + 1}, **numbers)
        save(name, tf.Module(), **signatures)


def _echo(x: Any) -> dict[str, Any]:
    import tensorflow as tf

    return {"y": tf.reverse(x, [0])}


def save_v1(root: Path) -> None:
    """Writes `v1/1`, whose signature also gives back what it is fed, and one value twice."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        y = tf.multiply(x, 2, name="y")
        sparse = v1.sparse_placeholder(tf.float32, name="sparse")
        total = tf.sparse.reduce_sum(sparse)

        def define(inputs: Any, outputs: Any) -> Any:
            return v1.saved_model.signature_def_utils.predict_signature_def(inputs, outputs)

        builder = v1.saved_model.builder.SavedModelBuilder(str(root / "v1" / "1"))
        builder.add_meta_graph_and_variables(
            session,
            ["serve", "extra"],
            signature_def_map={
                "serving_default": define({"x": x}, {"x_again": x, "y": y, "z": y}),
                "sparse": v1.saved_model.signature_def_utils.build_signature_def(
                    {"sparse": v1.saved_model.build_tensor_info(sparse)},
                    {"total": v1.saved_model.build_tensor_info(total)},
                    "predict",
                ),
            },
        )
        builder.save()


def save_reads(root: Path) -> None:
    """Writes `reads/1`: TensorFlow opens files as it makes executors: they would be constants.

    Without functions, so that what is not asked for is not there.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        first, second = (tf.constant(str(root / "reads" / name)) for name in READS)
        content = tf.io.read_file(tf.strings.join([second, tf.io.read_file(first)]))
        outputs = {"y": x + 1, "z": x + 2, "content": content}
        builder = v1.saved_model.builder.SavedModelBuilder(str(root / "reads" / "1"))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": v1.saved_model.signature_def_utils.predict_signature_def(
                    {"x": x}, outputs
                )
            },
        )
        builder.save()


if __name__ == "__main__":
    save_all(Path(sys.argv[1]))
    save_v1(Path(sys.argv[1]))
    save_reads(Path(sys.argv[1]))
