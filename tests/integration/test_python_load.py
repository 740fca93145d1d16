# SPDX-License-Identifier: Apache-2.0
"""`tf_model_pool.load`: what a model takes, answers and refuses, and how it ends."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import select
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tf_model_pool
from support.children import Places, run_to_end
from support.hot_models import PATIENCE
from support.modes import child_environment
from support.signature_models import (
    NARROW_TYPES,
    QUANTISED_TYPES,
    READS,
    TYPES,
    WIDE_OUTPUTS,
    WIDTH,
)
from tf_model_pool import LoadedModel

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def models(tensorflow_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert tensorflow_directory
    root = tmp_path_factory.mktemp("signatures")
    environment = {**child_environment("onednn"), "PYTHONPATH": str(TESTS)}
    run_to_end([sys.executable, "-m", "support.signature_models", str(root)], environment)
    return root


@pytest.fixture(scope="module")
def several(models: Path) -> Iterator[LoadedModel]:
    with tf_model_pool.load(models / "several" / "1") as model:
        yield model


@pytest.fixture(scope="module")
def types(models: Path) -> Iterator[LoadedModel]:
    with tf_model_pool.load(models / "types" / "1") as model:
        yield model


@pytest.fixture(scope="module")
def v1(models: Path) -> Iterator[LoadedModel]:
    with tf_model_pool.load(models / "v1" / "1", tags=("serve", "extra")) as model:
        yield model


def rows(*first: float) -> np.ndarray[Any, Any]:
    return np.array([[x] * WIDTH for x in first], dtype=np.float32)


def aligned(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array whose memory TensorFlow can use as it is."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


# ---- what a model answers -----------------------------------------------------------------------


def test_a_model_answers_as_its_signatures_do_when_they_are_loaded_eagerly(
    places: Places,
) -> None:
    import tensorflow as tf

    from support import models

    # GIVEN one version, loaded in both ways
    path = str(places.models / "ctr" / "1")
    eager = tf.saved_model.load(path)
    ids = models.request(0, batch=64)
    with tf_model_pool.load(path) as model:
        # WHEN
        found = model(ids=ids)
        described = model.signatures["describe"]()
    # THEN
    expected = eager.signatures["serving_default"](ids=tf.constant(ids))
    assert set(found) == set(expected) == {"score", "hidden"}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-4, atol=1e-3)
    assert described["labels"].tolist() == [b"v1!", b"ctr!", b"!"]
    assert described["step"] == 1


def test_an_exact_model_answers_what_numpy_computes(places: Places) -> None:
    from support import models

    ids = models.request(1)
    for version in (1, 2):
        values = models.weights(models.CATALOGUE["exact"][version - 1], version)
        with tf_model_pool.load(places.models / "exact" / str(version)) as model:
            found = model(ids=ids, outputs=("score",))
        assert list(found) == ["score"]
        np.testing.assert_array_equal(found["score"], models.exact_score(values, ids))


def test_signatures_tell_their_inputs_and_outputs(several: LoadedModel) -> None:
    assert "serving_default" in several.signatures
    assert not [name for name in several.signatures if name.startswith("__")]
    default = several.signatures["serving_default"]
    assert list(default.inputs) == ["a", "b"]
    assert list(default.outputs) == ["sum", "twin", "weighted"]
    spec = default.inputs["a"]
    assert (spec.name, spec.dtype, spec.shape) == ("a", "float32", (None, WIDTH))
    assert spec.numpy_dtype == np.float32
    assert several.signatures["any_shape"].inputs["x"].shape is None
    assert several.signatures["scalar"].inputs["x"].shape == ()
    assert str(spec) == "a: float32 [?, 4]"
    assert "a: float32 [?, 4]" in repr(default)
    assert "rank" in repr(several)


def test_a_part_of_the_outputs_is_fetched_in_the_order_asked_for(several: LoadedModel) -> None:
    found = several(a=rows(1), b=rows(2), outputs=["weighted", "sum"])
    assert list(found) == ["weighted", "sum"]
    np.testing.assert_array_equal(found["sum"], rows(3))
    assert found["weighted"].tolist() == [10.0]
    assert list(several(a=rows(1), b=rows(2), outputs={"sum"})) == ["sum"]


def test_inputs_may_come_in_a_mapping(several: LoadedModel) -> None:
    # `outputs` is an input's name here
    signature = several.signatures["outputs"]
    assert signature({"outputs": 4}, outputs=["y"])["y"] == 5
    assert several({"a": rows(1)}, b=rows(2), outputs=["sum"])["sum"].tolist() == rows(3).tolist()
    with pytest.raises(TypeError, match="takes its inputs by name"):
        several(rows(1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="input 'a' of signature 'serving_default': given twice"):
        several({"a": rows(1)}, a=rows(1), b=rows(2))


def test_a_signature_may_give_back_what_it_is_fed_and_one_value_twice(v1: LoadedModel) -> None:
    x = aligned((3,), np.float32)
    x[:] = [1, 2, 3]
    found = v1(x=x)
    assert {name: value.tolist() for name, value in found.items()} == {
        "x_again": [1, 2, 3],
        "y": [2, 4, 6],
        "z": [2, 4, 6],
    }
    # each is the caller's own
    found["x_again"][:] = found["y"][:] = 0
    assert x.tolist() == [1, 2, 3]
    assert found["z"].tolist() == [2, 4, 6]


def test_a_signature_of_other_than_dense_tensors_says_so(v1: LoadedModel) -> None:
    with pytest.raises(TypeError, match="input 'sparse' is not a dense tensor"):
        v1.signatures["sparse"](sparse=[1.0])


# ---- selections of outputs ----------------------------------------------------------------------

#: Every set of the outputs of `wide` but all of them.
SELECTIONS = [
    names
    for count in range(1, len(WIDE_OUTPUTS))
    for names in itertools.combinations(WIDE_OUTPUTS, count)
]
#: For how many a signature has executors.
MOST = 16
X = np.array([1, 2], np.float32)


def is_right(names: Any, found: Mapping[str, Any]) -> bool:
    """Whether `wide` answered these names, in their order, as it should."""
    return list(found) == list(names) and all(
        np.array_equal(found[name], X + WIDE_OUTPUTS.index(name)) for name in names
    )


def test_a_selection_of_outputs_has_executors_whatever_its_order(models: Path) -> None:
    with tf_model_pool.load(models / "wide" / "1") as model:
        for names in itertools.permutations(WIDE_OUTPUTS):
            assert is_right(names, model(x=X, outputs=names))
        assert model.cold_requests == 0
        for names in itertools.permutations(WIDE_OUTPUTS[:3]):
            assert is_right(names, model(x=X, outputs=names))
        assert model.cold_requests == 1


@pytest.mark.parametrize(("name", "most"), [("wide", MOST), ("constants", 14)])
def test_executors_are_made_for_so_many_selections_and_all_others_are_answered_too(
    models: Path, name: str, most: int
) -> None:
    with tf_model_pool.load(models / name / "1") as model:
        wide = model.signatures["wide" if name == "constants" else "serving_default"]
        assert is_right(WIDE_OUTPUTS, wide(x=X))
        before = model.cold_requests
        for names in SELECTIONS:
            assert is_right(names, wide(x=X, outputs=names))
            assert is_right(names[::-1], wide(x=X, outputs=names[::-1]))
        assert len(SELECTIONS) > most
        assert model.cold_requests == before + most
        assert model.prepare([(wide.name, names) for names in SELECTIONS]) == 0


def test_a_model_is_prepared_for_what_another_was_asked_for(models: Path) -> None:
    # GIVEN a model whose second signature no load prepares
    path = models / "constants" / "1"
    ids = np.zeros(2, np.int32)

    def call(model: LoadedModel) -> None:
        assert model(ids=ids)["y"].tolist() == [1, 1]
        for names in (("o3",), ("o2", "o1")):
            assert is_right(names, model.signatures["wide"](x=X, outputs=names))
        assert is_right(WIDE_OUTPUTS, model.signatures["wide"](x=X))

    with tf_model_pool.load(path) as old, tf_model_pool.load(path) as new:
        call(old)
        assert old.cold_requests == 3
        # WHEN
        asked = old.asked_for()
        assert set(asked) == {
            ("serving_default", None),
            ("wide", None),
            ("wide", ("o3",)),
            ("wide", ("o1", "o2")),
        }
        assert new.prepare(asked) == 3
        assert new.prepare(asked) == 0
        # THEN its calls find what they need
        call(new)
        assert new.cold_requests == 0
        # AND what it was prepared for and not asked for is not told
        assert set(new.asked_for()) == set(asked)
        assert new.prepare([("wide", ["o4"])]) == 1
        assert set(new.asked_for()) == set(asked)


def test_names_that_a_model_does_not_have_are_left_out(models: Path) -> None:
    with (
        tf_model_pool.load(models / "before" / "1") as before,
        tf_model_pool.load(models / "after" / "1") as after,
    ):
        for names in (["a", "b"], ["b"], ["c", "b", "a"]):
            before(x=X, outputs=names)
        before.signatures["rank"](x=X, outputs=["y"])
        assert len(before.asked_for()) == 4
        # {a}, {a, c}
        assert after.prepare(before.asked_for()) == 2
        assert after(x=X, outputs=["c", "a"])["a"].tolist() == [11, 12]
        assert after.cold_requests == 0
        with pytest.raises(ValueError, match="has no output 'b'"):
            after(x=X, outputs=["b"])


def test_prepare_says_what_it_cannot_take(models: Path, v1: LoadedModel) -> None:
    assert v1.prepare([("sparse", None), ("nothing", ["y"]), ("serving_default", [])]) == 0
    with pytest.raises(TypeError, match="are a collection of names, got the str 'y'"):
        v1.prepare([("serving_default", "y")])
    model = tf_model_pool.load(models / "wide" / "1")
    model(x=X, outputs=["o1"])
    model.close()
    assert model.asked_for() == [("serving_default", ("o1",))]
    with pytest.raises(tf_model_pool.ModelClosedError):
        model.prepare([("serving_default", ["o2"])])


IN_OPEN = 0x20  # inotify's


def test_calls_go_on_while_executors_for_others_are_made(models: Path) -> None:
    # GIVEN a selection whose executors are made from two files, of which one is an idle pipe
    first, second = (models / "reads" / name for name in READS)
    libc = ctypes.CDLL(None)
    with tf_model_pool.load(models / "reads" / "1") as model, ThreadPoolExecutor(2) as executor:
        assert model(x=X, outputs=["y"])["y"].tolist() == [2, 3]
        first.touch()
        os.mkfifo(second)
        watch = libc.inotify_init1(0)
        assert libc.inotify_add_watch(watch, os.fsencode(first), IN_OPEN) >= 0
        waits = executor.submit(model, x=X, outputs=["content"])
        try:
            # WHEN the first is opened, and until the pipe has a writer, they are being made
            assert select.select([watch], [], [], PATIENCE)[0]
            # THEN what is ready is called
            found = executor.submit(model, x=X, outputs=["y"]).result(PATIENCE)
            assert found["y"].tolist() == [2, 3]
            assert model.asked_for() == [("serving_default", ("y",))]
            assert model.cold_requests == 1
            assert not waits.done()
        finally:
            writer = os.open(second, os.O_RDWR)
            with pytest.raises(tf_model_pool.TensorFlowError, match="Illegal seek"):
                waits.result(PATIENCE)
            os.close(writer)
            os.close(watch)
        assert model.cold_requests == 2


# ---- types --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TYPES)
def test_arrays_of_every_type_go_in_and_come_out(types: LoadedModel, name: str) -> None:
    signature = types.signatures[f"of_{name}"]
    dtype = signature.inputs["x"].numpy_dtype
    assert dtype is not None
    assert dtype.name == name
    x = np.array([0, 1, 1, 0, 1], dtype=np.int8).astype(dtype)
    for given in (x, np.repeat(x, 2)[::2], x.tolist() if name != "bfloat16" else [0, 1, 1, 0, 1]):
        found = signature(x=given)["y"]
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, x[::-1])
    assert signature(x=x[:0])["y"].shape == (0,)


@pytest.mark.parametrize("name", NARROW_TYPES)
def test_arrays_of_less_than_a_byte_or_of_eight_bits_go_in_and_come_out(
    types: LoadedModel, name: str
) -> None:
    signature = types.signatures[f"of_{name}"]
    dtype = signature.inputs["x"].numpy_dtype
    assert dtype is not None
    assert dtype.name == name
    x = np.array([0, 1, 7, 2], dtype=np.int8).astype(dtype)
    for given in (x, np.repeat(x, 2)[::2], [0, 1, 7, 2]):
        found = signature(x=given)["y"]
        assert found.dtype == dtype
        assert found.tobytes() == x.tobytes()
    with pytest.raises(TypeError, match=rf"expected {name} \[\?\], got float32"):
        signature(x=np.zeros(1, np.float32))


@pytest.mark.parametrize("name", QUANTISED_TYPES)
def test_arrays_of_quantised_types_go_in_and_come_out(types: LoadedModel, name: str) -> None:
    signature = types.signatures[f"of_{name}"]
    dtype = signature.inputs["x"].numpy_dtype
    assert dtype is not None
    x = np.array([(0,), (1,), (100,)], dtype=dtype)
    found = signature(x=x)["y"]
    assert found.dtype == dtype
    assert found.tobytes() == x.tobytes()
    with pytest.raises(TypeError, match=rf"expected {name} \[\?\], got float32"):
        signature(x=np.zeros(3, np.float32))


@pytest.mark.parametrize(
    "given",
    [
        ["é", b"\0\xff", "", "x" * 100],
        np.array(["é", b"\0\xff", "", "x" * 100], dtype=object),
        ("é".encode(), b"\0\xff", b"", b"x" * 100),
    ],
    ids=["list", "objects", "bytes"],
)
def test_strings_go_in_and_come_out(types: LoadedModel, given: Any) -> None:
    found = types.signatures["of_string"](x=given)
    assert found["y"].tolist() == ["é".encode(), b"\0\xff", b"", b"x" * 100]
    assert found["size"].tolist() == [2, 2, 0, 100]
    assert found["joined"].shape == ()
    assert found["joined"][()] == "é".encode() + b"\0\xff" + b"x" * 100


@pytest.mark.parametrize("dtype", ["S3", "U3"])
def test_arrays_of_fixed_length_strings_are_taken(types: LoadedModel, dtype: str) -> None:
    found = types.signatures["of_string"](x=np.array(["ab", "cde"], dtype=dtype))
    assert found["y"].tolist() == [b"ab", b"cde"]


def test_strings_are_given_away(types: LoadedModel) -> None:
    # No reference of them is left behind.
    given = ["".join(["not", "interned", str(index)]) for index in range(100)]
    before = [sys.getrefcount(text) for text in given]
    for _ in range(3):
        types.signatures["of_string"](x=given)
    assert [sys.getrefcount(text) for text in given] == before


class Exporter:
    """Something that is an array through DLPack alone."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


@pytest.mark.parametrize("make", ["eager", "variable", "dlpack", "bfloat16", "memoryview"])
def test_whatever_is_an_array_is_taken(several: LoadedModel, types: LoadedModel, make: str) -> None:
    import tensorflow as tf

    x = rows(1, 2)
    if make == "bfloat16":
        capsule = tf.experimental.dlpack.to_dlpack(tf.constant([1, 2], tf.bfloat16))

        class Bfloat16:
            def __dlpack__(self) -> Any:
                return capsule

        found = types.signatures["of_bfloat16"](x=Bfloat16())["y"]
        assert found.astype(np.float32).tolist() == [2, 1]
        return
    ways: dict[str, Callable[[], Any]] = {
        "eager": lambda: tf.constant(x),
        "variable": lambda: tf.Variable(x),
        "dlpack": lambda: Exporter(x),
        "memoryview": lambda: x.data,
    }
    given = ways[make]()
    np.testing.assert_array_equal(several(a=given, b=x, outputs=["sum"])["sum"], 2 * x)


def test_a_dlpack_exporter_with_strides_is_read_by_them(several: LoadedModel) -> None:
    x = np.arange(2 * WIDTH, dtype=np.float32).reshape(WIDTH, 2).T
    np.testing.assert_array_equal(several(a=Exporter(x), b=x, outputs=["sum"])["sum"], 2 * x)


def test_python_numbers_are_scalars(several: LoadedModel) -> None:
    scalar = several.signatures["scalar"]
    for given in (2, 2.0, np.float64(2), np.int8(2), np.array(2, np.float32)):
        found = scalar(x=given)["z"]
        assert found.shape == ()
        assert found == 4
    assert scalar(x=0.1)["z"] == np.float32(0.1) * 2
    assert np.isnan(scalar(x=float("nan"))["z"])
    assert scalar(x=float("inf"))["z"] == np.inf


# ---- what is refused ----------------------------------------------------------------------------

HEAD = r"input 'ids' of signature 'rank': expected int32 \[\?\], got "


@pytest.mark.parametrize(
    ("given", "error", "came"),
    [
        (np.zeros(3, np.int64), TypeError, r"int64 \[3\]"),
        (np.zeros(3, np.float32), TypeError, r"float32 \[3\]"),
        (np.zeros((2, 3), np.int32), ValueError, r"int32 \[2, 3\]"),
        (7, ValueError, r"int32 \[\]"),
        ([1.5], ValueError, r"list of float64: .*1\.5.* is not representable"),
        ([2**31], ValueError, r"list of int64: .*2147483648.* is not representable"),
        ([2**70], ValueError, "list of integers of more than 64 bits"),
        ([[1], [2, 3]], ValueError, "list: "),
        (["a"], TypeError, "list of str or bytes"),
        ("a", TypeError, "str of str or bytes"),
        ([None], TypeError, "list of NoneType"),
        (None, TypeError, "NoneType"),
        (object(), TypeError, "object"),
        ({"a": 1}, TypeError, "dict"),
    ],
)
def test_a_wrong_input_is_one_error_that_says_what_was_expected_and_what_came(
    several: LoadedModel, given: Any, error: type[Exception], came: str
) -> None:
    with pytest.raises(error, match=HEAD + came):
        several.signatures["rank"](ids=given)


class ScipyLike:
    """As scipy.sparse has them."""

    nnz = 1

    def toarray(self) -> Any:
        return np.zeros(1)


@pytest.mark.parametrize("signature", ["rank", "of_string"])
@pytest.mark.parametrize(
    ("make", "came"),
    [
        ("sparse", r"SparseTensor: .*tf\.sparse\.to_dense\(x\)"),
        ("sparse_value", r"SparseTensorValue: .*tf\.sparse\.to_dense\(x\)"),
        ("ragged", r"RaggedTensor: .*x\.to_tensor\(\)"),
        ("ragged_value", r"RaggedTensorValue: .*x\.to_tensor\(\)"),
        ("slices", r"IndexedSlices: "),
        ("scipy", r"ScipyLike: .*x\.toarray\(\)"),
    ],
)
def test_sparse_and_ragged_tensors_are_one_error_that_names_the_input(
    several: LoadedModel, types: LoadedModel, signature: str, make: str, came: str
) -> None:
    import tensorflow as tf

    given: dict[str, Callable[[], Any]] = {
        "sparse": lambda: tf.sparse.from_dense([0, 3]),
        "sparse_value": lambda: tf.compat.v1.SparseTensorValue([[1]], [3], [2]),
        "ragged": lambda: tf.ragged.constant([[1], [2, 3]]),
        "ragged_value": lambda: tf.compat.v1.ragged.constant_value([[1], [2, 3]]),
        "slices": lambda: tf.IndexedSlices(tf.ones([1, 2]), tf.constant([0]), tf.constant([4, 2])),
        "scipy": ScipyLike,
    }
    run, name = {
        "rank": (several.signatures["rank"], "ids"),
        "of_string": (types.signatures["of_string"], "x"),
    }[signature]
    with pytest.raises(TypeError, match=rf"input '{name}' of signature '{signature}': .*{came}"):
        run({name: given[make]()})


def test_casts_that_lose_nothing_are_made(several: LoadedModel) -> None:
    rank = several.signatures["rank"]
    for given in (np.array([1, 0], np.int16), np.array([1, 0], ">i4"), [1, 0], (1.0, 0.0), []):
        assert rank(ids=given)["order"].dtype == np.int32
    with pytest.raises(ValueError, match="16777217 is not representable"):
        several.signatures["scalar"](x=2**24 + 1)
    with pytest.raises(ValueError, match="is not representable"):
        several.signatures["scalar"](x=1e300)


@pytest.mark.parametrize(
    ("given", "error", "came"),
    [
        ([1], TypeError, "an element of type int"),
        ([["a"], ["b", "c"]], ValueError, "nested lists of different lengths"),
        (np.zeros(2), TypeError, r"float64 \[2\]"),
        (np.array(["a", None], dtype=object), TypeError, "an element of type NoneType"),
        (["\ud800"], ValueError, "no UTF-8"),
    ],
)
def test_what_is_no_string_is_refused(
    types: LoadedModel, given: Any, error: type[Exception], came: str
) -> None:
    with pytest.raises(error, match=came):
        types.signatures["of_string"](x=given)


def test_names_that_are_missing_or_unknown_are_named(several: LoadedModel) -> None:
    with pytest.raises(TypeError, match=r"input 'b' of .*: expected float32 .*, got nothing; .* a"):
        several(a=rows(1))
    with pytest.raises(TypeError, match="'serving_default' has no input 'c'; it has: a, b"):
        several(a=rows(1), b=rows(1), c=rows(1))
    with pytest.raises(ValueError, match="has no output 'product'; it has: sum, twin, weighted"):
        several(a=rows(1), b=rows(1), outputs=["product"])
    with pytest.raises(ValueError, match="no outputs of signature"):
        several(a=rows(1), b=rows(1), outputs=[])
    with pytest.raises(TypeError, match="are a collection of names, got the str 'sum'"):
        several(a=rows(1), b=rows(1), outputs="sum")


def test_nothing_runs_if_an_input_is_wrong(several: LoadedModel) -> None:
    count = several.signatures["count"]
    before = count()["count"]
    with pytest.raises(TypeError):
        count(x=1)
    assert count()["count"] == before + 1


def test_an_error_of_a_run_keeps_tensorflows_code_and_text(several: LoadedModel) -> None:
    import tensorflow as tf

    with pytest.raises(tf_model_pool.TensorFlowError) as caught:
        several.signatures["fail"](x=11)
    assert caught.value.code == tf.errors.INVALID_ARGUMENT
    assert caught.value.code_name == "INVALID_ARGUMENT"
    assert "ten or more" in caught.value.message
    assert str(caught.value) == f"INVALID_ARGUMENT: {caught.value.message}"
    assert isinstance(caught.value, tf_model_pool.ModelPoolError)
    assert several.signatures["fail"](x=1)["x"] == 1


def test_what_is_no_model_is_tensorflows_error(tmp_path: Path, models: Path) -> None:
    with pytest.raises(tf_model_pool.TensorFlowError, match="Could not find SavedModel") as caught:
        tf_model_pool.load(tmp_path)
    assert caught.value.code_name == "NOT_FOUND"
    with pytest.raises(tf_model_pool.TensorFlowError, match="tags"):
        tf_model_pool.load(models / "several" / "1", tags=("train",))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(tf_model_pool.TensorFlowError):
        tf_model_pool.load(damaged)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"inter_op_threads": -1}, ValueError, "inter_op_threads is 0 to 1024 or None, got -1"),
        ({"intra_op_threads": 0}, ValueError, "intra_op_threads is 1 to 1024 or None, got 0"),
        ({"inter_op_threads": 1.0}, TypeError, "inter_op_threads is an int or None, got float"),
        ({"intra_op_threads": True}, TypeError, "intra_op_threads is an int or None, got bool"),
        ({"tags": (1,)}, TypeError, "tags are str, got int"),
    ],
)
def test_arguments_of_load_are_checked(
    arguments: Mapping[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        tf_model_pool.load("nowhere", **arguments)


# ---- memory -------------------------------------------------------------------------------------


def test_an_aligned_array_is_not_copied_and_an_answer_owns_its_memory(
    several: LoadedModel,
) -> None:
    # GIVEN an array that TensorFlow keeps: the model assigns it to a variable
    x = aligned((5, WIDTH), np.float32)
    before = sys.getrefcount(x)
    keep = several.signatures["keep"]
    # WHEN
    assert keep(x=x)["rows"] == 5
    # THEN it is the array itself that is kept, until another takes its place
    assert sys.getrefcount(x) > before
    keep(x=rows(1))
    keep(x=rows(1))
    assert sys.getrefcount(x) == before
    answer = several(a=x, b=x)["weighted"]
    assert answer.flags.writeable
    assert not answer.flags.owndata
    assert type(answer.base).__name__ == "PyCapsule"


def test_inputs_are_left_as_they_are(several: LoadedModel) -> None:
    x = aligned((64, WIDTH), np.float32)
    x[:] = 3
    x.flags.writeable = False
    for _ in range(3):
        assert np.all(several(a=x, b=x)["sum"] == 6)
    assert np.all(x == 3)


def test_an_answer_is_the_callers(several: LoadedModel) -> None:
    # GIVEN an answer that is a variable's value
    weights = several.signatures["weights"]
    first = weights()["kernel"]
    # WHEN it is written to
    expected = first.copy()
    first[:] = -1
    # THEN the model is as before
    np.testing.assert_array_equal(weights()["kernel"], expected)


def test_an_answer_outlives_its_model(models: Path) -> None:
    model = tf_model_pool.load(models / "several" / "1")
    answer = model(a=rows(1, 2), b=rows(3, 4))
    model.close()
    del model
    np.testing.assert_array_equal(answer["sum"], rows(4, 6))


def state_of(version: str) -> str | None:
    found = [pool.state for pool in tf_model_pool.pools() if pool.name == version]
    return found[0] if found else None


@pytest.mark.parametrize("how", ["close", "with", "drop"])
def test_the_memory_is_standby_as_soon_as_a_model_ends(places: Places, how: str) -> None:
    gc.disable()
    try:
        model = tf_model_pool.load(places.models / "ctr" / "2")
        from support import models

        model(ids=models.request(0))
        assert state_of("ctr/2") == "live"
        if how == "close":
            model.close()
            model.close()
        elif how == "with":
            with model:
                pass
        else:
            del model
        assert state_of("ctr/2") in ("standby", None)
    finally:
        gc.enable()


def test_a_dropped_model_is_gone_without_gc(models: Path) -> None:
    gc.disable()
    try:
        model = tf_model_pool.load(models / "several" / "1")
        model(a=rows(1), b=rows(1))
        with pytest.raises(ValueError, match="got float32"):
            model(a=1)
        gone = weakref.ref(model)
        signature = weakref.ref(model.signatures["rank"])
        del model
        assert gone() is None
        assert signature() is None
    finally:
        gc.enable()


def test_a_signature_keeps_its_model(models: Path) -> None:
    rank = tf_model_pool.load(models / "several" / "1").signatures["rank"]
    assert rank(ids=[2, 1])["order"].tolist() == [1, 0]


# ---- threads ------------------------------------------------------------------------------------


def test_threads_may_call_at_once_and_each_gets_its_own_answer(several: LoadedModel) -> None:
    parts: list[tuple[str, ...] | None] = [None, ("sum",), ("weighted",), ("sum", "twin")]

    def call(index: int) -> bool:
        found = several(a=rows(index), b=rows(1), outputs=parts[index % 4])
        weighted = "weighted" not in found or found["weighted"].tolist() == [10.0 * index]
        return weighted and ("sum" not in found or bool(np.all(found["sum"] == index + 1)))

    with ThreadPoolExecutor(4) as executor:
        assert all(executor.map(call, range(400)))


def test_threads_may_ask_for_any_selection_while_executors_are_made(models: Path) -> None:
    threads = 8
    for rounds in range(4):
        with (
            tf_model_pool.load(models / "wide" / "1") as model,
            ThreadPoolExecutor(threads) as executor,
        ):
            begun = threading.Barrier(threads)

            def call(index: int, model: LoadedModel = model, begun: Any = begun) -> int:
                # Each begins elsewhere, so that they meet at some and are alone at others.
                mine = SELECTIONS[index:] + SELECTIONS[:index]
                begun.wait()
                if index == 0:
                    model.prepare([("serving_default", names) for names in mine])
                for names in mine * 3:
                    assert is_right(names[::-1], model(x=X, outputs=names[::-1]))
                    assert is_right(WIDE_OUTPUTS, model(x=X))
                return len(model.asked_for())

            step = 1 + rounds
            told = list(executor.map(call, range(0, threads * step, step)))
            # Each set of the most that there may be was made once; beside them all outputs.
            assert max(told) == MOST + 1
            made = model.cold_requests
            assert made <= MOST
            assert model.prepare([("serving_default", names) for names in SELECTIONS]) == 0
            assert all(is_right(names, model(x=X, outputs=names)) for names in SELECTIONS)
            assert model.cold_requests == made


def test_calls_in_flight_end_before_a_close_and_later_ones_say_so(models: Path) -> None:
    model = tf_model_pool.load(models / "several" / "1")
    refused: list[BaseException] = []
    answered = threading.Barrier(5)

    def call() -> None:
        model(a=rows(1), b=rows(2))
        answered.wait()
        try:
            while True:
                assert np.all(model(a=rows(1), b=rows(2))["sum"] == 3)
        except BaseException as error:
            refused.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    answered.wait()
    model.close()
    for thread in threads:
        thread.join()
    assert [type(error) for error in refused] == [tf_model_pool.ModelClosedError] * 4
    assert "'serving_default' was called after its model was closed" in str(refused[0])
    assert model.closed
    assert "closed" in repr(model)


def test_the_interpreter_runs_while_a_model_loads(places: Places) -> None:
    # GIVEN a thread that counts
    path = places.models / "big" / "1"
    seen: list[float] = []
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            seen.append(time.monotonic())

    counter = threading.Thread(target=count)
    counter.start()
    # WHEN
    begun = time.monotonic()
    model = tf_model_pool.load(path)
    ended = time.monotonic()
    model.close()
    done.set()
    counter.join()
    # THEN it counted nearly all the time
    inside = [t for t in seen if begun <= t <= ended]
    longest = max(b - a for a, b in zip([begun, *inside], [*inside, ended], strict=True))
    assert longest < max(0.5 * (ended - begun), 0.1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"inter_op_threads": 0},
        {"inter_op_threads": 2},
        {"intra_op_threads": 1},
        {"inter_op_threads": 0, "intra_op_threads": 2},
    ],
)
def test_a_model_may_have_threads_of_its_own(models: Path, arguments: dict[str, Any]) -> None:
    def names() -> list[str]:
        tasks = Path("/proc/self/task").iterdir()
        return [(task / "comm").read_text().strip() for task in tasks]

    before = len(names())
    own = arguments.get("inter_op_threads", 0) + arguments.get("intra_op_threads", 0)
    with tf_model_pool.load(models / "several" / "1", **arguments) as model:
        assert np.all(model(a=rows(1), b=rows(2))["sum"] == 3)
        assert len(names()) >= before + own
    assert len(names()) <= before + 2  # those that TensorFlow itself or our library began


# ---- processes ----------------------------------------------------------------------------------


def python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=child_environment("onednn"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


PREAMBLE = """
import os, sys, threading, time
import numpy as np
import tf_model_pool
assert "tensorflow" not in sys.modules
path = sys.argv[1]
x = np.ones([2, 4], np.float32)
"""


@pytest.mark.parametrize("how", ["idle", "daemon threads", "daemon load", "daemon close", "cycle"])
def test_an_interpreter_ends_with_models_alive(models: Path, how: str) -> None:
    program = (
        PREAMBLE
        + {
            "idle": "model = tf_model_pool.load(path); print(model(a=x, b=x)['sum'].sum())",
            "daemon threads": """
model = tf_model_pool.load(path)
begun = threading.Barrier(5)
def call():
    model(a=x, b=x)
    begun.wait()
    while True:
        model(a=x, b=x)
for _ in range(4):
    threading.Thread(target=call, daemon=True).start()
begun.wait()
print(model(a=x, b=x)['sum'].sum())
""",
            "daemon load": """
model = tf_model_pool.load(path)
print(model(a=x, b=x)['sum'].sum())
loaded = threading.Event()
def load():
    while True:
        tf_model_pool.load(path)
        loaded.set()
threading.Thread(target=load, daemon=True).start()
loaded.wait()
""",
            "daemon close": """
model = tf_model_pool.load(path)
print(model(a=x, b=x)['sum'].sum())
closed = threading.Event()
def churn():
    while True:
        tf_model_pool.load(path).close()
        closed.set()
for _ in range(3):
    threading.Thread(target=churn, daemon=True).start()
closed.wait()
""",
            "cycle": """
class Holder: pass
holder = Holder()
holder.itself = holder
holder.model = tf_model_pool.load(path)
print(holder.model(a=x, b=x)['sum'].sum())
""",
        }[how]
    )
    done = python(program, models / "several" / "1")
    assert done.stdout.split() == ["16.0"]
    assert "terminate" not in done.stderr


FORK = """
def child(work):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            print(type(error).__name__, str(error), file=sys.stderr)
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
def raises(work):
    try:
        work()
    except tf_model_pool.ForkedError as error:
        assert "fork" in str(error)
    else:
        raise AssertionError("no error")
"""


def test_after_a_fork_a_model_says_that_it_stayed_with_the_parent(models: Path) -> None:
    program = (
        PREAMBLE
        + FORK
        + """
model = tf_model_pool.load(path)
def work():
    raises(lambda: model(a=x, b=x))
    raises(lambda: tf_model_pool.load(path))
    model.close()
child(work)
print(model(a=x, b=x)['sum'].sum())
"""
    )
    assert python(program, models / "several" / "1").stdout.split() == ["16.0"]


def test_a_child_may_end_as_interpreters_do(models: Path) -> None:
    program = (
        PREAMBLE
        + """
model = tf_model_pool.load(path)
pid = os.fork()
if pid == 0:
    del model
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
print(model(a=x, b=x)['sum'].sum())
"""
    )
    assert python(program, models / "several" / "1").stdout.split() == ["16.0"]


def test_workers_that_load_after_the_fork_serve(models: Path) -> None:
    # As gunicorn's do, with the application imported before: TensorFlow too, but no model.
    program = (
        PREAMBLE
        + FORK
        + """
import tensorflow
def work():
    model = tf_model_pool.load(path)
    assert np.all(model(a=x, b=x)['sum'] == 2)
child(work)
child(work)
"""
    )
    python(program, models / "several" / "1")


def test_a_fork_after_tensorflow_began_to_work_is_seen(models: Path) -> None:
    program = (
        PREAMBLE
        + FORK
        + """
import tensorflow as tf
tf.constant(1) + 1
child(lambda: raises(lambda: tf_model_pool.load(path)))
"""
    )
    python(program, models / "several" / "1")


SERVE = (
    PREAMBLE.replace('assert "tensorflow" not in sys.modules', "")
    + """
model = tf_model_pool.load(path)
assert np.all(model(a=x, b=x)['sum'] == 2)
print(sorted(pool.state for pool in tf_model_pool.pools()))
model.close()
print(sorted(pool.state for pool in tf_model_pool.pools()))
"""
)


def site_of(preload_site: Path, scratch: Path) -> Path:
    """The distribution for an untouched TensorFlow, with the module under test."""
    site = scratch / "site"
    package = site / "tf_model_pool"
    shutil.copytree(Path(tf_model_pool.__file__).parent, package)
    for name in ("libtf_model_pool.so", "libtf_model_pool_preload.so", "build_info.json"):
        shutil.copy(preload_site / "tf_model_pool" / name, package)
    return site


def test_it_works_on_the_released_tensorflow_in_a_preloaded_process(
    models: Path, stock_python: Path, preload_site: Path, tmp_path: Path
) -> None:
    environment = child_environment("onednn")
    environment["PYTHONPATH"] = str(site_of(preload_site, tmp_path))
    program = [str(stock_python), "-c", SERVE, str(models / "several" / "1")]
    output = run_to_end(
        [str(stock_python), "-m", "tf_model_pool", "run", "--", *program], environment
    )
    assert output.splitlines() == ["['live']", "['standby']"]


def test_it_works_on_the_released_tensorflow_without_the_library(
    models: Path, stock_python: Path, preload_site: Path, tmp_path: Path
) -> None:
    environment = child_environment("onednn")
    environment["PYTHONPATH"] = str(site_of(preload_site, tmp_path))
    program = SERVE.partition("print")[0] + "model.close(); print('served')"
    arguments = ["-W", "ignore", "-c", program, str(models / "several" / "1")]
    assert run_to_end([str(stock_python), *arguments], environment) == "served\n"
