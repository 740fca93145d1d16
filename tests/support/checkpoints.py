# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, good and bad, and the restores to try on them.

Run as a program in an environment that has TensorFlow: `python -m support.checkpoints DIRECTORY`
writes them. `restores` lists what to try: data only, so that two TensorFlows do the same.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROWS, COLUMNS = 300, 40
#: More elements than TensorFlow restores on the op's own thread.
BIG_ELEMENTS = (16 << 20) + 4096

#: Tensor name -> TensorFlow's name of its type, in the checkpoint `types`.
TYPES = {
    "matrix": "float32",
    "vector": "float32",
    "scalar": "float32",
    "empty": "float32",
    "half": "float16",
    "brain": "bfloat16",
    "double": "float64",
    "byte": "uint8",
    "int": "int32",
    "long": "int64",
    "flag": "bool",
    "complex": "complex64",
    "text": "string",
    "long_text": "string",
    "empty_text": "string",
    "text_scalar": "string",
}
V1_TYPES = {name: TYPES[name] for name in ("matrix", "vector", "double", "int", "long", "flag")}


@dataclasses.dataclass(frozen=True)
class Restore:
    """One restore: op `RestoreV2`, `RestoreSlice` or `Restore`, and its arguments.

    The last two ops take one tensor. `works` says whether TensorFlow is expected to succeed;
    None where that depends on how the op is called.
    """

    name: str
    prefix: str
    tensors: tuple[str, ...]
    types: tuple[str, ...]
    works: bool | None
    slices: tuple[str, ...] = ()
    op: str = "RestoreV2"
    shard: int = -1


def _values() -> dict[str, Any]:
    import tensorflow as tf

    rng = np.random.default_rng(11)
    matrix = rng.standard_normal((ROWS, COLUMNS), dtype=np.float32)
    return {
        "matrix": tf.constant(matrix),
        "vector": tf.constant(matrix[0]),
        "scalar": tf.constant(3.25),
        "empty": tf.zeros([0, 4]),
        "half": tf.constant(matrix.astype(np.float16)),
        "brain": tf.cast(matrix, tf.bfloat16),
        "double": tf.constant(matrix.astype(np.float64)),
        "byte": tf.constant(rng.integers(0, 256, 1000).astype(np.uint8)),
        "int": tf.constant(rng.integers(-9, 9, (7, 11)).astype(np.int32)),
        "long": tf.constant(rng.integers(-9, 9, 5000)),
        "flag": tf.constant(rng.integers(0, 2, (33, 3)).astype(bool)),
        "complex": tf.complex(matrix, matrix + 1),
        "text": tf.constant(["one", "", "three" * 10]),
        "long_text": tf.constant([["x" * 100_000, "y"], ["", "z" * 70_000]]),
        "empty_text": tf.zeros([0], tf.string),
        "text_scalar": tf.constant("text"),
    }


def _save(prefix: Path, tensors: dict[str, Any], slices: list[str] | None = None) -> None:
    import tensorflow as tf

    names = list(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=slices or [""] * len(names),
        tensors=list(tensors.values()),
    )


def _partition_specs() -> list[str]:
    return [f"{ROWS} {COLUMNS} {start},100:-" for start in (0, 100, 200)]


def _save_partitions(prefix: Path, count: int) -> None:
    """Writes the first `count` of three partitions of the tensor `table`."""
    import tensorflow as tf

    matrix = _values()["matrix"]
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=["table"] * count + ["vector"],
        shape_and_slices=[*_partition_specs()[:count], ""],
        tensors=[matrix[100 * i : 100 * (i + 1)] for i in range(count)] + [matrix[0]],
    )


def _save_shards(prefix: Path) -> None:
    import tensorflow as tf

    values = _values()
    half = len(values) // 2
    parts = [prefix.with_name(f"{prefix.name}_part_{i}") for i in range(2)]
    _save(parts[0], dict(list(values.items())[:half]))
    _save(parts[1], dict(list(values.items())[half:]))
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(part) for part in parts],
        destination_prefix=str(prefix),
        delete_old_dirs=False,
    )


def _save_v1(root: Path) -> None:
    import tensorflow as tf

    values = {name: _values()[name] for name in V1_TYPES}
    tf.raw_ops.Save(
        filename=str(root / "v1"), tensor_names=list(values), data=list(values.values())
    )
    matrix = values["matrix"]
    specs = _partition_specs()
    for shard, rows in enumerate((slice(0, 200), slice(200, 300))):
        count = (rows.stop - rows.start) // 100
        first = rows.start // 100
        tf.raw_ops.SaveSlices(
            filename=str(root / f"v1_shards-{shard:05d}-of-00002"),
            tensor_names=["table"] * count,
            shapes_and_slices=specs[first : first + count],
            data=[matrix[100 * i : 100 * (i + 1)] for i in range(first, first + count)],
        )


def _truncate(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def _cut_last_byte(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data))


def _clear(file: Path) -> None:
    file.write_bytes(b"")


def _scramble(file: Path) -> None:
    file.write_bytes(np.random.default_rng(3).bytes(file.stat().st_size))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "one_byte_short": _cut_last_byte,
    "flipped": _flip,
    "cleared": _clear,
    "scrambled": _scramble,
    "missing": Path.unlink,
}
_DATA = ".data-00000-of-00001"


def _damage_copies(root: Path, source: str, ends: tuple[str, ...]) -> None:
    """For each file `source + end` and each damage, a copy of the checkpoint with it."""
    for end in ends:
        for damage, apply in DAMAGES.items():
            target = root / _damaged(source, end, damage)
            for file in root.glob(f"{source}.*"):
                shutil.copy(file, target.with_name(target.name + file.name[len(source) :]))
            apply(target.with_name(target.name + end))


def _damaged(source: str, end: str, damage: str) -> str:
    what = "index" if end == ".index" else f"data_{end[6:11]}"
    return f"{source}_{what}_{damage}"


def build_all(root: Path) -> None:
    """Writes every checkpoint under `root`."""
    root.mkdir(parents=True, exist_ok=True)
    _save(root / "types", _values())
    _save_partitions(root / "partitions", 3)
    _save_partitions(root / "hole", 2)
    _save_shards(root / "shards")
    big = np.random.default_rng(5).standard_normal(BIG_ELEMENTS, dtype=np.float32)
    _save(root / "big", {"big": big, "small": big[:100]})
    _save_v1(root)
    _damage_copies(root, "types", (_DATA, ".index"))
    _damage_copies(root, "shards", (".data-00001-of-00002",))
    _damage_copies(root, "big", (_DATA,))
    for damage, apply in DAMAGES.items():
        shutil.copy(root / "v1", root / f"v1_{damage}")
        apply(root / f"v1_{damage}")
    _save_damaged_models(root)


def _save_damaged_models(root: Path) -> None:
    """SavedModels whose variables are damaged, as `saved_models/<file>.<damage>/1`."""
    from support.models import Spec, save_ctr

    sound = root / "sound" / "1"
    save_ctr(sound, Spec(rows=4096, small=4), 1)
    for name in (f"variables{_DATA}", "variables.index"):
        for damage, apply in DAMAGES.items():
            target = root / "saved_models" / f"{name}.{damage}" / "1"
            shutil.copytree(sound, target)
            apply(target / "variables" / name)


def _all_types(name: str, prefix: str, works: bool) -> Restore:
    return Restore(name, prefix, tuple(TYPES), tuple(TYPES.values()), works)


def _sliced(name: str, prefix: str, tensor: str, spec: str, works: bool) -> Iterator[Restore]:
    kind = TYPES.get(tensor, "float32")
    yield Restore(f"slice/{name}", prefix, (tensor,), (kind,), works, (spec,))


def _restores_v2() -> Iterator[Restore]:
    yield _all_types("types", "types", True)
    yield _all_types("shards", "shards", True)
    for name, kind in TYPES.items():
        yield Restore(f"one/{name}", "types", (name,), (kind,), True)
    yield Restore("same_tensor_twice", "types", ("matrix", "matrix"), ("float32",) * 2, True)
    yield Restore("big", "big", ("big", "small"), ("float32",) * 2, True)

    matrix = f"{ROWS} {COLUMNS}"
    yield from _sliced("rows", "types", "matrix", f"{matrix} 10,20:-", True)
    yield from _sliced("columns", "types", "matrix", f"{matrix} -:5,7", True)
    yield from _sliced("whole", "types", "matrix", f"{matrix} -:-", True)
    yield from _sliced("across_partitions", "partitions", "table", f"{matrix} 50,200:-", True)
    yield from _sliced("in_a_partition", "partitions", "table", f"{matrix} 100,100:-", True)
    yield from _sliced("of_text", "types", "long_text", "2 2 0,1:-", False)
    yield from _sliced("out_of_range", "types", "matrix", f"{matrix} 250,100:-", False)
    yield from _sliced("of_another_shape", "types", "matrix", "300 41 0,10:-", False)
    yield from _sliced("of_another_rank", "types", "matrix", "12000 0,10", False)
    yield from _sliced("without_a_shape", "types", "matrix", "0,10:-", False)
    yield from _sliced("without_a_slice", "types", "matrix", matrix, False)
    yield from _sliced("not_numbers", "types", "matrix", "three hundred", False)
    yield from _sliced("negative", "types", "matrix", f"{matrix} -5,10:-", False)
    yield from _sliced("in_a_hole", "hole", "table", f"{matrix} 150,100:-", False)
    yield from _sliced("beside_a_hole", "hole", "table", f"{matrix} 50,100:-", True)
    yield Restore(
        "partitions",
        "partitions",
        ("table",) * 3 + ("table", "vector"),
        ("float32",) * 5,
        True,
        (*_partition_specs(), "", ""),
    )
    yield Restore("whole_with_a_hole", "hole", ("table",), ("float32",), False)

    yield Restore("missing_tensor", "types", ("nothing",), ("float32",), False)
    yield Restore(
        "missing_among_good", "types", ("matrix", "nothing", "vector"), ("float32",) * 3, False
    )
    yield Restore("wrong_type", "types", ("matrix",), ("int32",), False)
    yield Restore("wrong_type_text", "types", ("text",), ("float32",), False)
    yield Restore(
        "wrong_type_twice",
        "types",
        ("matrix", "vector", "long"),
        ("int32", "int64", "int64"),
        False,
    )
    yield Restore(
        "bad_slice_among_good",
        "types",
        ("vector", "matrix", "double"),
        ("float32", "float32", "float64"),
        False,
        ("", "300 41 0,10:-", ""),
    )
    yield Restore("too_few_slices", "types", ("matrix", "vector"), ("float32",) * 2, False, ("",))
    yield Restore("no_checkpoint", "no_such_checkpoint", ("matrix",), ("float32",), False)
    yield Restore("no_directory", "no/such/checkpoint", ("matrix",), ("float32",), False)
    yield Restore("directory_for_prefix", "", ("matrix",), ("float32",), False)
    for damage in DAMAGES:
        for end in (_DATA, ".index"):
            prefix = _damaged("types", end, damage)
            yield _all_types(f"damaged/{prefix}", prefix, False)
        prefix = _damaged("shards", ".data-00001-of-00002", damage)
        yield _all_types(f"damaged/{prefix}", prefix, False)
        # A tensor of the shard that is whole.
        yield Restore(f"undamaged_part/{prefix}", prefix, ("matrix",), ("float32",), True)
        prefix = _damaged("big", _DATA, damage)
        yield Restore(f"damaged/{prefix}", prefix, ("big", "small"), ("float32",) * 2, False)


def _restores_v1() -> Iterator[Restore]:
    matrix = f"{ROWS} {COLUMNS}"
    for name, kind in V1_TYPES.items():
        yield Restore(f"v1/{name}", "v1", (name,), (kind,), True, op="Restore")
        yield Restore(f"v1_slice/{name}", "v1", (name,), (kind,), True, ("",), op="RestoreSlice")
    yield Restore(
        "v1_by_v2_op", "v1", tuple(V1_TYPES), tuple(V1_TYPES.values()), True, op="RestoreV2"
    )
    shards = "v1_shards-?????-of-00002"
    for shard in (-1, 0, 1):
        yield Restore(
            f"v1_shards/{shard}", shards, ("table",), ("float32",), True, op="Restore", shard=shard
        )
    for name, spec, works in (
        ("rows", f"{matrix} 10,20:-", True),
        ("across_shards", f"{matrix} 150,100:-", True),
        ("of_another_shape", "300 41 0,10:-", False),
        ("out_of_range", f"{matrix} 250,100:-", False),
        ("not_numbers", "three hundred", False),
    ):
        yield Restore(
            f"v1_shards/{name}", shards, ("table",), ("float32",), works, (spec,), "RestoreSlice"
        )
    yield Restore("v1/missing_tensor", "v1", ("nothing",), ("float32",), False, op="Restore")
    yield Restore("v1/wrong_type", "v1", ("matrix",), ("int32",), False, op="Restore")
    yield Restore("v1/no_file", "no_such_file", ("matrix",), ("float32",), False, op="Restore")
    yield Restore("v1/bad_pattern", "no_dir/??", ("matrix",), ("float32",), False, op="Restore")
    yield Restore("v1/two_names", "v1", ("matrix", "vector"), ("float32",), None, op="Restore")
    for damage in DAMAGES:
        for op in ("Restore", "RestoreV2"):
            yield Restore(
                f"v1_damaged/{damage}/{op}", f"v1_{damage}", ("matrix",), ("float32",), False, op=op
            )


def restores() -> list[Restore]:
    """Every restore to try."""
    return [*_restores_v2(), *_restores_v1()]


if __name__ == "__main__":
    build_all(Path(sys.argv[1]))
