# SPDX-License-Identifier: Apache-2.0
"""Makes models, requests and expected answers. A program of its own, because it needs TensorFlow.

    PYTHON -I generate.py JOB.json

PYTHON is the interpreter of an environment with TensorFlow, stock or patched; this file imports
nothing of its own package, which need not be installed there. JOB.json holds `action`:

`shape`     `shape`, `scale`, `seed`, `scales` (one factor per version), `output`: writes
            OUTPUT/1, OUTPUT/2, ... and OUTPUT/inputs.json with the ranges of integer inputs.
`requests`  `versions` (directories), `signature`, `tags`, `count`, `seed`, `batch`, `max_index`,
            `unknown_dimension`, `ranges`, `recorded` (file or null), `serving_api` (directory to
            import tensorflow_serving from, or null), `output`: writes requests.tfrecord,
            warmup.tfrecord and answers.json.

Records are serialized `tensorflow.RunGraphRequest`s whose `send` holds the inputs by signature
key. The message's module is not part of the wheels, so its one field is written here.
Errors that the caller should show are one line on standard error with exit status 3.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import named_tensor_pb2

EXIT_EXPECTED = 3
MIB = 1 << 20
ROW = 16  # float32 numbers in an embedding
#: Every tenth small variable is read by requests; the rest are what training leaves in a
#: checkpoint (optimizer slots, moving averages), restored but not read.
READ_EVERY = 10


class ExpectedError(Exception):
    """Shown to the user as it is."""


# ---- shapes -------------------------------------------------------------------------------------


def _rows(megabytes: float) -> int:
    return max(64, int(megabytes * MIB / (4 * ROW)))


def _table_rows(total_megabytes: float, count: int, smallest: float, largest: float) -> list[int]:
    """Rows of `count` tables whose sizes lie evenly between `smallest` and `largest` of a unit."""
    shares = np.linspace(smallest, largest, count)
    return [_rows(total_megabytes * share / shares.sum()) for share in shares]


class _Normal:
    """Seeded float32 weights; other versions have other ones."""

    def __init__(self, seed: int, version: int) -> None:
        self._rng = np.random.default_rng([seed, version])

    def __call__(self, *shape: int) -> np.ndarray:
        fan = shape[0] if len(shape) > 1 and shape[0] < 65536 else ROW
        return self._rng.standard_normal(shape, dtype=np.float32) / np.float32(math.sqrt(fan))


class _Ctr(tf.Module):
    """Embedding tables, small variables and an MLP."""

    def __init__(self, tables: list[int], small: int, draw: _Normal, read_every: int) -> None:
        super().__init__()
        self.tables = [
            tf.Variable(draw(rows, ROW), name=f"table_{i}") for i, rows in enumerate(tables)
        ]
        self.small = [tf.Variable(draw(32 + i % 96), name=f"small_{i}") for i in range(small)]
        width = ROW * len(tables) + 13
        self.w1 = tf.Variable(draw(width, 256), name="w1")
        self.w2 = tf.Variable(draw(256, 64), name="w2")
        self.w3 = tf.Variable(draw(64, 1), name="w3")

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, len(tables)], tf.int64, "ids"),
                tf.TensorSpec([None, 13], tf.float32, "dense"),
            ]
        )
        def serve(ids: tf.Tensor, dense: tf.Tensor) -> dict[str, tf.Tensor]:
            rows = [tf.gather(table, ids[:, i]) for i, table in enumerate(self.tables)]
            x = tf.concat([*rows, dense], axis=1)
            x = tf.nn.relu(x @ self.w1)
            for variable in self.small[::read_every]:
                x = x * (1 + 0.001 * variable[0])
            x = tf.nn.relu(x @ self.w2)
            return {"score": x @ self.w3}

        self.serve = serve


class _Wide(tf.Module):
    """Many features, each with nodes of its own."""

    def __init__(self, features: int, rows: int, draw: _Normal) -> None:
        super().__init__()
        self.tables = [tf.Variable(draw(rows, ROW), name=f"table_{i}") for i in range(features)]
        self.scales = [tf.Variable(draw(ROW), name=f"scale_{i}") for i in range(features)]
        self.out = tf.Variable(draw(ROW, 1), name="out")

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, features], tf.int64, "ids"),
                tf.TensorSpec([None, features], tf.float32, "dense"),
            ]
        )
        def serve(ids: tf.Tensor, dense: tf.Tensor) -> dict[str, tf.Tensor]:
            parts = []
            for i in range(features):
                value = tf.math.log1p(tf.abs(dense[:, i : i + 1]))
                row = tf.gather(self.tables[i], tf.math.floormod(ids[:, i], rows))
                parts.append(tf.nn.relu(row * self.scales[i] + value))
            return {"score": tf.add_n(parts) @ self.out}

        self.serve = serve


class _Gather(tf.Module):
    """One embedding table and hardly any arithmetic: memory and address translation."""

    def __init__(self, rows: int, draw: _Normal) -> None:
        super().__init__()
        self.table = tf.Variable(draw(rows, ROW), name="table")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "ids")])
        def serve(ids: tf.Tensor) -> dict[str, tf.Tensor]:
            # Of a maximum, unlike a sum, the answer does not depend on the order.
            return {"score": tf.reduce_max(tf.gather(self.table, ids), axis=1)}

        self.serve = serve


class _Dense(tf.Module):
    """Wide MLP, then a transformer encoder; requests carry large float tensors."""

    def __init__(self, width: int, draw: _Normal) -> None:
        super().__init__()
        model = 256
        tokens = max(1, width // 4 // model)
        self.mlp = [
            tf.Variable(draw(a, b), name=f"mlp_{i}")
            for i, (a, b) in enumerate(((width, width), (width, width), (width, tokens * model)))
        ]
        self.layers = [
            {
                name: tf.Variable(draw(*shape), name=f"{name}_{i}")
                for name, shape in (
                    ("qkv", (model, 3 * model)),
                    ("proj", (model, model)),
                    ("up", (model, 4 * model)),
                    ("down", (4 * model, model)),
                )
            }
            for i in range(2)
        ]

        def norm(x: tf.Tensor) -> tf.Tensor:
            mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
            return (x - mean) * tf.math.rsqrt(variance + 1e-5)

        @tf.function(input_signature=[tf.TensorSpec([None, width], tf.float32, "features")])
        def serve(features: tf.Tensor) -> dict[str, tf.Tensor]:
            x = features
            for weight in self.mlp:
                x = tf.nn.relu(x @ weight)
            x = tf.reshape(x, [-1, tokens, model])
            for layer in self.layers:
                q, k, v = tf.split(tf.einsum("btm,mn->btn", norm(x), layer["qkv"]), 3, axis=-1)
                scores = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) / math.sqrt(model))
                x = x + tf.einsum("btm,mn->btn", tf.matmul(scores, v), layer["proj"])
                hidden = tf.nn.gelu(tf.einsum("btm,mn->btn", norm(x), layer["up"]))
                x = x + tf.einsum("btm,mn->btn", hidden, layer["down"])
            return {"score": tf.reduce_mean(x, axis=[1, 2])}

        self.serve = serve


def _save_v2(module: tf.Module, directory: Path) -> None:
    tf.saved_model.save(module, str(directory), signatures={"serving_default": module.serve})


def _v1_scores(ids: Any, dense: Any, tables: list[Any], w1: Any, w2: Any) -> Any:
    rows = [tf.gather(table, ids[:, i]) for i, table in enumerate(tables)]
    return tf.nn.relu(tf.concat([*rows, dense], axis=1) @ w1) @ w2


def _save_v1(rows: list[int], draw: _Normal, directory: Path, *, frozen: bool) -> None:
    """Reference variables, or constants and nothing to restore."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        ids = v1.placeholder(tf.int64, [None, len(rows)], "ids")
        dense = v1.placeholder(tf.float32, [None, 13], "dense")
        width = ROW * len(rows) + 13
        shapes = {f"table_{i}": (n, ROW) for i, n in enumerate(rows)}
        shapes |= {"w1": (width, 128), "w2": (128, 1)}
        if frozen:
            nodes = {name: tf.constant(draw(*shape), name=name) for name, shape in shapes.items()}
        else:
            nodes = {
                name: v1.get_variable(
                    name, shape, initializer=v1.zeros_initializer(), use_resource=False
                )
                for name, shape in shapes.items()
            }
            for name, shape in shapes.items():
                # Through a feed: a constant would make the graph as large as the weights.
                feed = v1.placeholder(tf.float32, shape)
                session.run(v1.assign(nodes[name], feed), {feed: draw(*shape)})
        tables = [nodes[f"table_{i}"] for i in range(len(rows))]
        score = tf.identity(_v1_scores(ids, dense, tables, nodes["w1"], nodes["w2"]), "score")
        signature = v1.saved_model.predict_signature_def(
            {"ids": ids, "dense": dense}, {"score": score}
        )
        builder = v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()


def make_version(shape: str, scale: float, draw: _Normal, directory: Path) -> dict[str, int]:
    """Writes one version. Returns the exclusive maximum of each integer input."""
    if shape in ("ctr-large", "ctr-mix", "ctr-small", "many-small"):
        read_every = READ_EVERY
        if shape == "ctr-large":
            tables, small = _table_rows(600 * scale, max(6, round(10 * scale)), 25, 100), 12
        elif shape == "ctr-mix":
            tables, small = _table_rows(960 * scale, 24, 20, 60), max(100, round(3000 * scale))
        elif shape == "ctr-small":
            tables, small = _table_rows(293 * scale, 12, 1, 1), 200
        else:
            tables, small = _table_rows(80 * scale, 8, 1, 3), max(100, round(10000 * scale))
            read_every = 10 * READ_EVERY  # requests as light as the other shapes'
        _save_v2(_Ctr(tables, small, draw, read_every), directory)
        return {"ids": min(tables)}
    if shape == "wide":
        rows = 5000
        _save_v2(_Wide(max(40, round(600 * scale)), rows, draw), directory)
        return {"ids": rows}
    if shape == "gather":
        rows = _rows(2048 * scale)
        _save_v2(_Gather(rows, draw), directory)
        return {"ids": rows}
    if shape == "dense":
        _save_v2(_Dense(max(4, round(16 * math.sqrt(scale))) * 256, draw), directory)
        return {}
    if shape in ("tf1-ref", "frozen"):
        frozen = shape == "frozen"
        tables = _table_rows((250 if frozen else 400) * scale, 8, 1, 3)
        _save_v1(tables, draw, directory, frozen=frozen)
        return {"ids": min(tables)}
    raise ExpectedError(f"unknown shape {shape!r}")


def make_shape(job: dict[str, Any]) -> None:
    """Action `shape`."""
    output = Path(job["output"])
    limits: dict[str, int] = {}
    for version, factor in enumerate(job["scales"], start=1):
        draw = _Normal(job["seed"], version)
        made = make_version(job["shape"], job["scale"] * factor, draw, output / str(version))
        limits = {key: min(limit, limits.get(key, limit)) for key, limit in made.items()}
    (output / "inputs.json").write_text(json.dumps({"ranges": limits}))


# ---- requests -----------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def encode(inputs: dict[str, Any]) -> bytes:
    """A serialized `RunGraphRequest` with `send` = inputs (field 3, worker.proto)."""
    out = b""
    for name, value in inputs.items():
        tensor = value if hasattr(value, "tensor_shape") else tf.make_tensor_proto(value)
        item = named_tensor_pb2.NamedTensorProto(name=name, tensor=tensor).SerializeToString()
        out += b"\x1a" + _varint(len(item)) + item
    return out


def _random_input(name: str, info: Any, job: dict[str, Any], rng: np.random.Generator) -> Any:
    if info.tensor_shape.unknown_rank:
        shape = [job["batch"]]
    else:
        sizes = [d.size for d in info.tensor_shape.dim]
        shape = [
            size if size >= 0 else job["batch"] if axis == 0 else job["unknown_dimension"]
            for axis, size in enumerate(sizes)
        ]
    dtype = tf.dtypes.as_dtype(info.dtype)
    if dtype == tf.string:
        values = rng.integers(0, max(2, job["max_index"] or 1000), size=shape)
        return np.vectorize(lambda v: f"value_{v}".encode(), otypes=[object])(values)
    if dtype == tf.bool:
        return rng.integers(0, 2, size=shape).astype(bool)
    if dtype.is_integer:
        limit = job["ranges"].get(name) or job["max_index"] or 2
        limit = min(int(limit), int(dtype.max))
        # Few ids are popular, as in real traffic: the square of a uniform number.
        return (rng.random(shape) ** 2 * limit).astype(dtype.as_numpy_dtype)
    if dtype.is_floating:
        return (
            tf.constant(rng.standard_normal(shape, dtype=np.float32))
            .numpy()
            .astype(dtype.as_numpy_dtype)
        )
    raise ExpectedError(
        f"input {name!r} has type {dtype.name}: random values are made for integer, floating, "
        "boolean and string inputs; give recorded requests instead"
    )


def _recorded(job: dict[str, Any], signature: Any, key: str) -> list[dict[str, Any]]:
    """Inputs of the PredictionLogs in a warm-up file of TensorFlow Serving's."""
    if job["serving_api"]:
        sys.path.append(job["serving_api"])
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError as error:
        raise ExpectedError(
            f"{job['recorded']} is read with TensorFlow Serving's protos, which are missing "
            f"({error}); install them: pip install --no-deps tensorflow-serving-api==2.21.0"
        ) from error
    by_tensor = {info.name: name for name, info in signature.inputs.items()}
    found = []
    for number, record in enumerate(tf.data.TFRecordDataset(job["recorded"])):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        kind = log.WhichOneof("log_type")
        if kind == "predict_log":
            request = log.predict_log.request
            wanted = request.model_spec.signature_name or "serving_default"
            if wanted != key:
                continue
            inputs = dict(request.inputs)
        elif kind == "session_run_log":
            feeds = {feed.name: feed.tensor for feed in log.session_run_log.request.feed}
            inputs = {by_tensor[name]: value for name, value in feeds.items() if name in by_tensor}
        elif kind in ("classify_log", "regress_log"):
            source = getattr(log, kind).request.input
            examples = (
                source.example_list.examples
                if source.WhichOneof("kind") == "example_list"
                else source.example_list_with_context.examples
            )
            if len(signature.inputs) != 1:
                raise ExpectedError(
                    f"record {number} of {job['recorded']} is a {kind}, but signature {key!r} has "
                    f"inputs {sorted(signature.inputs)}: tf.Examples go to a signature with one"
                )
            serialized = [example.SerializeToString() for example in examples]
            inputs = {next(iter(signature.inputs)): tf.make_tensor_proto(serialized)}
        else:
            raise ExpectedError(
                f"record {number} of {job['recorded']} is a {kind}; allowed: predict_log, "
                "classify_log, regress_log, session_run_log"
            )
        if sorted(inputs) != sorted(signature.inputs):
            raise ExpectedError(
                f"record {number} of {job['recorded']} has inputs {sorted(inputs)}; signature "
                f"{key!r} wants {sorted(signature.inputs)}"
            )
        found.append(inputs)
    if not found:
        raise ExpectedError(f"{job['recorded']} holds no request for signature {key!r}")
    return found


def _checksums(outputs: list[np.ndarray]) -> tuple[float, float]:
    """Sum over all elements, as the driver adds them up, and the sum of their magnitudes.

    A string counts as its length in bytes.
    """
    total = magnitude = 0.0
    for value in outputs:
        if value.dtype.kind == "O":
            length = float(sum(len(each) for each in value.ravel()))
            total, magnitude = total + length, magnitude + length
        if value.dtype.kind in "fiub" or value.dtype.name == "bfloat16":
            wide = value.astype(np.float64)
            total += float(wide.sum())
            magnitude += float(np.abs(wide).sum())
    return total, magnitude


def _answers(directory: str, job: dict[str, Any], requests: list[dict[str, Any]]) -> list[Any]:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        meta = v1.saved_model.load(session, job["tags"], directory)
        signature = meta.signature_def[job["signature"]]
        fetches = [signature.outputs[name].name for name in sorted(signature.outputs)]
        call = session.make_callable(
            fetches, [signature.inputs[name].name for name in sorted(signature.inputs)]
        )
        out = []
        for inputs in requests:
            values = [
                tf.make_ndarray(value) if hasattr(value, "tensor_shape") else value
                for _, value in sorted(inputs.items())
            ]
            try:
                first, again = _checksums(call(*values)), _checksums(call(*values))
            except tf.errors.OpError as error:
                raise ExpectedError(
                    f"{directory} rejects a request: {str(error).splitlines()[0]}. For ids out of "
                    "range set --max-index, for shapes --batch or --unknown-dimension, or give "
                    "recorded requests"
                ) from error
            # A model that draws random numbers has no expected answer.
            out.append([*first] if first == again or np.allclose(first, again, rtol=1e-5) else None)
    return out


def make_requests(job: dict[str, Any]) -> None:
    """Action `requests`."""
    first = job["versions"][0]
    from tensorflow.python.saved_model import loader_impl

    parsed = loader_impl.parse_saved_model(first)
    graphs = [g for g in parsed.meta_graphs if set(g.meta_info_def.tags) == set(job["tags"])]
    if not graphs:
        tags = [sorted(g.meta_info_def.tags) for g in parsed.meta_graphs]
        raise ExpectedError(f"{first} has no graph with tags {job['tags']}; it has {tags}")
    signatures = graphs[0].signature_def
    if job["signature"] not in signatures:
        raise ExpectedError(
            f"{first} has no signature {job['signature']!r}; it has "
            f"{sorted(name for name in signatures if not name.startswith('__'))}"
        )
    signature = signatures[job["signature"]]
    if job["recorded"]:
        requests = _recorded(job, signature, job["signature"])
    else:
        rng = np.random.default_rng([job["seed"], 17])
        requests = [
            {
                name: _random_input(name, info, job, rng)
                for name, info in sorted(signature.inputs.items())
            }
            for _ in range(job["count"])
        ]
    output = Path(job["output"])
    for name, chosen in (("requests", requests), ("warmup", requests[:10])):
        with tf.io.TFRecordWriter(str(output / f"{name}.tfrecord")) as writer:
            for inputs in chosen:
                writer.write(encode(inputs))
    answers = {
        "signature_inputs": {
            name: [tf.dtypes.as_dtype(info.dtype).name, [d.size for d in info.tensor_shape.dim]]
            for name, info in signature.inputs.items()
        },
        "outputs": sorted(signature.outputs),
        "nodes": len(graphs[0].graph_def.node)
        + sum(len(f.node_def) for f in graphs[0].graph_def.library.function),
        "checksums": [_answers(version, job, requests) for version in job["versions"]],
    }
    (output / "answers.json").write_text(json.dumps(answers))


def main() -> int:
    """Runs the job in the file of the first argument."""
    job = json.loads(Path(sys.argv[1]).read_text())
    tf.get_logger().setLevel("ERROR")
    try:
        {"shape": make_shape, "requests": make_requests}[job["action"]](job)
    except ExpectedError as error:
        print(f"bench-error: {error}", file=sys.stderr)
        return EXIT_EXPECTED
    except (OSError, ValueError) as error:
        print(f"bench-error: {type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_EXPECTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
