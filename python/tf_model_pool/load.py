# SPDX-License-Identifier: Apache-2.0
"""Serving from Python: SavedModels that C++ loads and runs, without the interpreter's lock.

    model = tf_model_pool.load("/models/ctr/1")
    model(ids=ids)["score"]

Importing this module imports neither TensorFlow nor NumPy; `load` does.
"""

from __future__ import annotations

import atexit
import ctypes
import dataclasses
import importlib
import os
import sys
import threading
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from tf_model_pool import api, at_exit
from tf_model_pool.errors import ForkedError, ModelClosedError, NotActiveError, TensorFlowError

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Self

_SESSION = "tf_model_pool._session"
_DEFAULT = "serving_default"
#: DataType has fewer values; those from 101 are references.
_DATA_TYPES = range(1, 100)
_NOT_FOR_NUMPY = ("resource", "variant")

_lock = threading.Lock()
_native: Any = None
_eager_tensor: Any = None
#: Set in a process that was forked from one whose TensorFlow already had threads.
_forked_from_tensorflow = False


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or an output of a signature.

    Attributes:
        name: by which it is given, or found in the answer.
        dtype: TensorFlow's name of the type: `float32`, `int64`, `bfloat16`, `string`, ...
        shape: a length for each dimension, None for any length; None instead of all of them if
            the number of dimensions is not known.
        numpy_dtype: the type of its arrays. Strings are objects (`bytes` in answers). None for
            what arrays cannot hold.
        optional: an input that has a default value.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    numpy_dtype: np.dtype[Any] | None
    optional: bool = False

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name}: {self.dtype} of any shape"
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype} [{dims}]"


class Signature:
    """A function of a loaded model. Any number of threads may call it at once.

    Attributes:
        name: the signature's.
        inputs: by name.
        outputs: by name.
    """

    __slots__ = ("__weakref__", "_native", "_run", "inputs", "name", "outputs")

    def __init__(self, native: Any) -> None:
        self.name: str = native.name
        self.inputs: Mapping[str, TensorSpec] = _specs(native.inputs)
        self.outputs: Mapping[str, TensorSpec] = _specs(native.outputs)
        self._native = native
        self._run = native.run

    def __call__(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        outputs: Collection[str] | None = None,
        **named: Any,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Runs the signature, without the interpreter's lock.

        Args:
            inputs: values by name, for names that are no keywords (or are `outputs`); may be
                given together with keywords.
            outputs: the names of those to compute; all by default. What only others need is not
                computed, for the first 16 sets of names; beyond these all are, and those asked
                for returned. (Fewer sets, at least one, if the graph's constants take more than
                64 MiB: their copies are to stay within 1 GiB.) The first call with a set makes
                its executors, unless `LoadedModel.prepare` has.
            **named: values by name: NumPy arrays, eager tensors, whatever has DLPack or makes an
                array; Python numbers, `str`, `bytes`, and nested lists of them. An array must
                have the input's dtype or one that casts to it safely. Python's ints and bools
                must be exactly representable; its floats are rounded to the input's precision. An
                array that is contiguous and aligned to 64 bytes is not copied: leave it unchanged
                until the call returns.

        Returns:
            Arrays by output name. They are the caller's: written to, they change nothing else,
            and they outlive the model. Strings are `bytes` in arrays of objects.

        Raises:
            TypeError: a missing or unknown input, or a type that does not fit.
            ValueError: a shape that does not fit, a number that is not representable, or an
                unknown output.
            TensorFlowError: the run failed; `code` and `message` are TensorFlow's.
            ModelClosedError: the model is closed.
            ForkedError: the model was loaded by the process that this one was forked from.
        """
        if inputs is not None:
            named = _merged(self.name, inputs, named)
        return self._run(named, outputs)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        takes = ", ".join(str(spec) for spec in self.inputs.values())
        gives = ", ".join(str(spec) for spec in self.outputs.values())
        return f"<Signature {self.name}({takes}) -> {{{gives}}}>"


class LoadedModel:
    """A SavedModel in memory. `load` makes it.

    Ends with `close()`, with a `with` block, or with its last reference: nothing here is part of
    a reference cycle. A signature that is still referred to keeps the model in memory.

    Attributes:
        path: where it was loaded from.
        tags: of the graph that was loaded.
        signatures: by name.
    """

    __slots__ = ("__weakref__", "_default", "_native", "path", "signatures", "tags")

    def __init__(
        self, path: str, tags: tuple[str, ...], native: Any, signatures: Iterable[Any]
    ) -> None:
        self.path = path
        self.tags = tags
        self._native = native
        made = {signature.name: Signature(signature) for signature in signatures}
        self.signatures: Mapping[str, Signature] = MappingProxyType(made)
        self._default = made.get(_DEFAULT)

    def __call__(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        outputs: Collection[str] | None = None,
        **named: Any,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Runs the signature `serving_default`; see `Signature.__call__`."""
        default = self._default
        if default is None:
            raise ValueError(
                f"{self.path} has no signature {_DEFAULT}; it has: "
                f"{', '.join(self.signatures) or 'none'}. Call model.signatures[NAME](...)"
            )
        if inputs is not None:
            named = _merged(_DEFAULT, inputs, named)
        return default._run(named, outputs)  # type: ignore[no-any-return]

    def asked_for(self) -> list[tuple[str, tuple[str, ...] | None]]:
        """What was called since it was loaded, for the `prepare` of the next version.

        Returns:
            Names of signatures, each with the names of outputs, or with None if it was called
            without.

        Raises:
            ForkedError: as a call.
        """
        return [
            (name, outputs)
            for name, signature in self.signatures.items()
            for outputs in signature._native.asked_for()
        ]

    def prepare(self, asked_for: Iterable[tuple[str, Collection[str] | None]]) -> int:
        """Makes the executors for calls to come, and gives way to requests meanwhile.

            new.prepare(old.asked_for())
            new.prepare([("serving_default", ["score"])])

        No kernel runs. Signatures and outputs that the model does not have are left out, as are
        sets of outputs beyond those that `Signature.__call__` names. What TensorFlow cannot make
        is left to the call, which says why.

        Returns:
            How many were not there yet.

        Raises:
            TypeError: outputs that are one str.
            ModelClosedError, ForkedError: as a call.
        """
        found = ((self.signatures.get(name), outputs) for name, outputs in asked_for)
        return sum(signature._native.prepare(outputs) for signature, outputs in found if signature)

    @property
    def cold_requests(self) -> int:
        """Calls that made executors first, because neither load nor `prepare` had."""
        return int(self._native.cold_requests)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return bool(self._native.closed)

    def close(self) -> None:
        """Unloads the model: calls in flight end first, later ones raise `ModelClosedError`.

        When it returns, the memory is standby for the next load. May be called again.
        """
        self._native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<LoadedModel{state} {self.path}: {', '.join(self.signatures)}>"


def load(
    path: str | os.PathLike[str],
    *,
    tags: Collection[str] = ("serve",),
    inter_op_threads: int | None = None,
    intra_op_threads: int | None = None,
) -> LoadedModel:
    """Loads a SavedModel with TensorFlow's C++ loader, to be called from any thread.

    The interpreter's lock is free meanwhile, and the loading thread gives way to requests if
    there are model pools. Every signature is made ready with all its outputs (of a model with
    more than 64 MiB of constants only `serving_default`, because each would copy them); what else
    is called, on first use or by `LoadedModel.prepare`. No kernel of the model runs.

    Args:
        path: the directory of the SavedModel, for example `/models/ctr/1`.
        tags: of the graph to load; a SavedModel may hold several.
        inter_op_threads: threads that run this model's operations; None for TensorFlow's, which
            all models share, 0 for the calling thread alone.
        intra_op_threads: threads that one operation of this model may use; None for
            TensorFlow's.

    Raises:
        TensorFlowError: TensorFlow cannot load it; `code` and `message` are TensorFlow's.
        NotActiveError: TensorFlow or the native module is missing.
        ForkedError: TensorFlow had begun to work before this process was forked.
        TypeError, ValueError: an argument is not what it should be.
    """
    name = os.fsdecode(os.fspath(path))
    wanted = _checked_tags(tags)
    inter_op = _checked_threads("inter_op_threads", inter_op_threads, at_least=0)
    intra_op = _checked_threads("intra_op_threads", intra_op_threads, at_least=1)
    if _forked_from_tensorflow:
        raise ForkedError(
            "TensorFlow had begun to work before this process was forked, and its threads stayed "
            "with the parent: fork first and load in the process that serves, or start it with "
            "the method 'spawn'"
        )
    loaded = _session().load(name, list(wanted), inter_op, intra_op)
    return LoadedModel(name, wanted, loaded.model, loaded.signatures)


def _checked_tags(tags: Collection[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        tags = (tags,)
    wanted = tuple(tags)
    for tag in wanted:
        if not isinstance(tag, str):
            raise TypeError(f"tags are str, got {type(tag).__name__}: {tag!r}")
    return wanted


def _checked_threads(name: str, value: int | None, *, at_least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is an int or None, got {type(value).__name__}: {value!r}")
    most = 1024
    if not at_least <= value <= most:
        raise ValueError(f"{name} is {at_least} to {most} or None, got {value}")
    return value


def _merged(signature: str, inputs: object, named: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(inputs, Mapping):
        raise TypeError(
            f"signature '{signature}' takes its inputs by name, or as one mapping; got a "
            f"positional {type(inputs).__name__}"
        )
    for name in named:
        if name in inputs:
            raise TypeError(f"input '{name}' of signature '{signature}': given twice")
    return {**inputs, **named}


def _specs(described: Iterable[tuple[Any, ...]]) -> Mapping[str, TensorSpec]:
    specs = {}
    for name, dtype, shape, numpy_dtype, optional in described:
        specs[name] = TensorSpec(name, dtype, shape, numpy_dtype, optional)
    return MappingProxyType(specs)


# ---- the native module --------------------------------------------------------------------------


def _session() -> Any:
    """The native module, told what it needs; TensorFlow is imported before it."""
    global _native
    if _native is not None:
        return _native
    with _lock:
        if _native is None:
            _native = _load_session()
    return _native


def _load_session() -> Any:
    tensorflow = api.find_tensorflow()
    if tensorflow is None:
        raise NotActiveError(f"TensorFlow is not installed for {sys.executable}. {api.HOW_TO_GET}")
    # Not ImportError alone: it runs other people's code.
    try:
        tf: Any = importlib.import_module("tensorflow")
    except Exception as error:
        raise NotActiveError(
            f"TensorFlow does not import: {type(error).__name__}: {error}"
        ) from error
    if api.preloaded():
        # Before the native module looks for libtf_model_pool.so.
        ctypes.CDLL(None).tf_model_pool_preload_target(b"")
    try:
        native = importlib.import_module(_SESSION)
    except ImportError as error:
        raise NotActiveError(
            f"the native module {_SESSION} does not load: {error}. It comes with the patched wheel "
            f"if the headers of its Python are at hand when it is built. {api.HOW_TO_GET}"
        ) from error
    global _eager_tensor
    _eager_tensor = tf.__internal__.EagerTensor
    native.configure(_dtypes(tf), _as_array, TensorFlowError, ModelClosedError, ForkedError)
    close_at_exit(native)
    return native


def close_at_exit(native: Any) -> None:
    """Lets the end of the interpreter close every model."""
    atexit.register(lambda: native.close_all(at_exit.seconds_left()))


def _dtypes(tf: Any) -> dict[int, tuple[str, np.dtype[Any] | None]]:
    """TensorFlow's types by number: name, and NumPy's type."""
    import numpy as np

    dtypes = {}
    for number in _DATA_TYPES:
        try:
            dtype = tf.dtypes.as_dtype(number)
        except TypeError:
            continue
        held = None if dtype.name in _NOT_FOR_NUMPY else np.dtype(dtype.as_numpy_dtype)
        dtypes[number] = (dtype.name, held)
    return dtypes


def _note_fork() -> None:
    """In a forked child: TensorFlow's threads are not here, if it had begun to use any."""
    global _forked_from_tensorflow
    module = sys.modules.get("tensorflow.python.eager.context")
    context = getattr(module, "_context", None)
    if getattr(context, "_initialized", False):
        _forked_from_tensorflow = True


os.register_at_fork(after_in_child=_note_fork)


# ---- inputs -------------------------------------------------------------------------------------


def _as_array(value: Any, dtype: np.dtype[Any], expected: str) -> np.ndarray[Any, Any]:
    """An array of `dtype` that holds the same as `value`.

    Args:
        value: what a caller gave, unless it is an array of that dtype.
        dtype: object for strings.
        expected: begins the text of an error.

    Raises:
        TypeError, ValueError: there is no such array.
    """
    import numpy as np

    several = _of_several_arrays(value)
    if several is not None:
        raise TypeError(f"{expected}, got {_type_name(value)}: {several}")
    if isinstance(value, (np.generic, bool, int, float, complex, str, bytes, list, tuple)):
        if dtype.hasobject:
            return _strings(value, expected)
        return _numbers(value, dtype, expected)
    if isinstance(value, np.ndarray):
        array = value
    elif isinstance(value, _eager_tensor):
        if "CPU" not in value.backing_device:
            raise TypeError(f"{expected}, got a tensor on {value.backing_device}")
        # numpy() less the copy.
        array = np.asarray(value._numpy())
    elif hasattr(value, "__dlpack__"):
        try:
            array = _session().from_dlpack(value)
        except Exception as error:
            raise TypeError(f"{expected}, got {_type_name(value)}: {error}") from error
    else:
        try:
            array = np.asarray(value)
        except Exception as error:
            raise TypeError(f"{expected}, got {_type_name(value)}: {error}") from error
        if array.dtype.hasobject and not hasattr(value, "__array__"):
            raise TypeError(f"{expected}, got {_type_name(value)}")
    if array.dtype == dtype:
        return array
    came = f"{expected}, got {_name(array.dtype)} {_shape(array)}"
    if dtype.hasobject:
        if array.dtype.kind not in "OSUT":
            raise TypeError(came)
        return array.astype(object)
    try:
        safe = np.can_cast(array.dtype, dtype, "safe")
    except TypeError:
        safe = False
    if not safe:
        raise TypeError(came)
    return array.astype(dtype)


def _of_several_arrays(value: Any) -> str | None:
    """What to do instead with a sparse or a ragged tensor, also a session's or SciPy's."""
    if hasattr(value, "row_splits"):
        return "an input takes one array; x.to_tensor() makes a ragged tensor one"
    if hasattr(value, "indices") and hasattr(value, "dense_shape"):
        return "an input takes one array; tf.sparse.to_dense(x) makes a sparse tensor one"
    if hasattr(value, "nnz") and hasattr(value, "toarray"):
        return "an input takes one array; x.toarray() makes a sparse array one"
    return None


def _strings(value: Any, expected: str) -> np.ndarray[Any, Any]:
    import numpy as np

    try:
        array = np.array(value, dtype=object)
    except ValueError as error:
        raise ValueError(f"{expected}, got nested lists of different lengths") from error
    for element in array.flat:
        if isinstance(element, (list, tuple)):
            raise ValueError(f"{expected}, got nested lists of different lengths")
        if not isinstance(element, (str, bytes)):
            raise TypeError(f"{expected}, got an element of type {_type_name(element)}")
    return array


def _numbers(value: Any, dtype: np.dtype[Any], expected: str) -> np.ndarray[Any, Any]:
    """Python's own numbers have no precision of their own: they take that of the input."""
    import numpy as np

    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{expected}, got {_type_name(value)}: {error}") from error
    if array.size == 0 and array.dtype.kind == "f":
        return array.astype(dtype)
    came = f"{expected}, got {_type_name(value)} of "
    if array.dtype.hasobject:
        if all(isinstance(element, int) for element in array.flat):
            raise ValueError(f"{came}integers of more than 64 bits")
        kinds = sorted({_type_name(element) for element in array.flat})
        raise TypeError(came + ", ".join(kinds))
    if array.dtype.kind in "SUT":
        raise TypeError(f"{came}str or bytes")
    if array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        try:
            cast = array.astype(dtype)
            # Complex to real, or a number to a bool, would be another number.
            back = cast.astype(array.dtype)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{came}{_name(array.dtype)}") from error
        if array.dtype.kind in "fc" and _rounds(dtype):
            # Only infinities may be lost, and parts.
            same = np.isfinite(back) == np.isfinite(array)
            if array.dtype.kind == "c" and not np.iscomplexobj(cast):
                same &= array.imag == 0
        else:
            same = (back == array) | ((back != back) & (array != array))
    if not np.all(same):
        wrong = array[~same].flat[0] if array.ndim else array[()]
        raise ValueError(f"{came}{_name(array.dtype)}: {wrong} is not representable")
    return cast


def _rounds(dtype: np.dtype[Any]) -> bool:
    """Whether it is one of the floating-point types; ml_dtypes' are of kind V."""
    return dtype.kind in "fc" or (dtype.kind == "V" and "float" in dtype.name)


def _name(dtype: np.dtype[Any]) -> str:
    return "string" if dtype.kind in "SUT" else str(dtype)


def _shape(array: np.ndarray[Any, Any]) -> str:
    return f"[{', '.join(map(str, array.shape))}]"


def _type_name(value: object) -> str:
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return module + kind.__qualname__
