# SPDX-License-Identifier: Apache-2.0
"""What a program asks about the model pools of its own process.

Order of import matters: the native module links libtf_model_pool.so, which needs TensorFlow's
libraries, and TensorFlow must be the one to load those (it chooses the dlopen scope). So every
path to the native module in this file imports TensorFlow first.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from tf_model_pool import overwritten as _overwritten
from tf_model_pool.errors import NotActiveError, SettingError

_PACKAGE_DIR = Path(__file__).resolve().parent
_NATIVE = "tf_model_pool._native"
#: The same over the library's C interface, for a wheel that was built without a native module.
_C_INTERFACE = "tf_model_pool._c_interface"
_LIBRARY = "libtf_model_pool.so"

# The distributions that contain the package `tensorflow` for CPUs.
_DISTRIBUTIONS = (
    "tensorflow-cpu",
    "tensorflow",
    "tensorflow-intel",
    "tf-nightly-cpu",
    "tf-nightly",
)

_BUILD_INFO = "build_info.json"

PREFIX = "Model pools are not active: "

HOW_TO_GET = (
    "Build the patched wheel with `./build.sh` in a checkout of this project and install it: "
    "`pip install dist/tensorflow*.whl`."
)


HOW_TO_GET_LIBRARY = (
    "Build it with `./build.sh library` in a checkout of this project, for that very TensorFlow, "
    "and install it: `pip install dist/tf_model_pool-*.whl`."
)
HOW_TO_RUN = "Start the program with `python -m tf_model_pool run -- CMD`."


class InactiveWarning(UserWarning):
    """The patched TensorFlow, or a part of it, is missing: no model gets a pool."""


@dataclasses.dataclass(frozen=True, slots=True)
class PoolStats:
    """One slot of one model, and the version that it holds or held last. Sizes are bytes.

    Attributes:
        id: the value of `AllocatorAttributes::model_pool()` for this pool, 1 to 255.
        name: `<model>/<version>`, for example `ctr/3`.
        model_dir: the directory that tells models of one name apart.
        version: "" if the checkpoint has none.
        slot: "A", "B", and so on; a letter belongs to one model.
        state: `loading` while a restore into the pool runs; `live` while a tensor lies in it;
            `standby` when nothing does and its memory waits for the next version.
        bytes_in_use: granted to tensors, rounded up to the allocator's block size.
        peak_bytes_in_use: the most since this version began to load.
        bytes_reserved: mapped read-write, whether in use or not.
        num_tensors: buffers that lie in the pool now.
        largest_free_block: the largest buffer that fits without growth.
        fallback_bytes: bytes of this version that lie in the device's own allocator because
            the pool could not grow.
        num_regions: address ranges held.
        num_mappings: how often the pool made memory usable, ever. Unchanged over a load means
            that the load reused memory which was there.
        num_loads: restores, and constants of graphs, that were given this slot, ever.
    """

    id: int
    name: str
    model_dir: str
    version: str
    slot: str
    state: Literal["loading", "live", "standby"]
    bytes_in_use: int
    peak_bytes_in_use: int
    bytes_reserved: int
    num_tensors: int
    largest_free_block: int
    fallback_bytes: int
    num_regions: int
    num_mappings: int
    num_loads: int


@dataclasses.dataclass(frozen=True, slots=True)
class Totals:
    """All pools of the process together. Sizes are bytes; counts run since process start.

    Attributes:
        bytes_in_use: granted to tensors.
        bytes_reserved: mapped read-write; this is what `TF_MODEL_POOL_LIMIT_MB` limits.
        limit_bytes: that limit, 0 = none.
        num_pools: slots of all models.
        num_mappings: how often pools made memory usable.
        fallback_loads: restores that got no pool and went to the device's own allocator.
        fallback_bytes: bytes that went there, for that or for want of room in a pool.
        trimmed_bytes: given back from standby slots.
        prepared_bytes: made usable ahead of need (`TF_MODEL_POOL_PREPARE`).
        last_fallback_reason: why the last fallback happened, "" if none did.
    """

    bytes_in_use: int
    bytes_reserved: int
    limit_bytes: int
    num_pools: int
    num_mappings: int
    fallback_loads: int
    fallback_bytes: int
    trimmed_bytes: int
    prepared_bytes: int
    last_fallback_reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class LoadTotals:
    """How C++ `LoadSavedModel` restored in this process, if it goes through this project.

    Counts run since process start. Other loads (eager ones, `tf.compat.v1` sessions) do not count.

    Attributes:
        direct_restores: restore ops whose variables were set without running the op.
        graph_restores: restore and init ops that TensorFlow ran.
        cold_versions: requests of a kind whose executors no load, and no earlier request, had made.
        last_graph_restore_reason: why the last restore or init op was run, "" if none was.
    """

    direct_restores: int
    graph_restores: int
    cold_versions: int
    last_graph_restore_reason: str


#: Why pools are not active: as the library says, or before there is a library to ask.
InactiveCode = Literal["off", "malformed_setting", "hooks_not_bound", "not_preloaded", "missing"]
_Record = TypeVar("_Record", PoolStats, Totals, LoadTotals)


@dataclasses.dataclass(frozen=True, slots=True)
class TensorFlowLocation:
    """The TensorFlow that `import tensorflow` would find; finding it does not import it.

    `overwritten` is set if this one was installed over the patched one.
    """

    directory: Path
    distribution: str | None
    version: str | None
    overwritten: _overwritten.Overwritten | None = None

    @property
    def patched(self) -> bool:
        """True if the package contains our library, and TensorFlow's libraries that call it."""
        return self.overwritten is None and (self.directory / _LIBRARY).is_file()

    def recorded_hash(self, name: str) -> str | None:
        """The hash of a file as the distribution's RECORD has it; None without a record."""
        if self.distribution is None:
            return None
        text = importlib.metadata.distribution(self.distribution).read_text("RECORD") or ""
        for line in text.splitlines():
            if line.startswith(f"{name},"):
                return line.split(",")[1] or None
        return None

    def __str__(self) -> str:
        return f"TensorFlow {self.version or '(unknown version)'} in {self.directory}"


def find_tensorflow() -> TensorFlowLocation | None:
    """Locates TensorFlow without importing it. None where there is none."""
    try:
        spec = importlib.util.find_spec("tensorflow")
    except (ImportError, ValueError):
        return None
    # A directory without __init__.py gives a namespace package, whose origin is None.
    if spec is None or spec.origin is None:
        return None
    directory = Path(spec.origin).parent
    here: dict[str, importlib.metadata.Distribution] = {}
    for name in _DISTRIBUTIONS:
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        # Metadata without files is what a half removed package leaves.
        if Path(str(found.locate_file("tensorflow"))).resolve() == directory.resolve():
            here[name] = found
    over = _overwritten.find(directory, list(here.values()))
    if over is not None:
        return TensorFlowLocation(directory, over.distribution, over.version, over)
    for name, found in here.items():
        return TensorFlowLocation(directory, name, found.version)
    return TensorFlowLocation(directory, None, None)


def missing_parts() -> str | None:
    """Says which part of the patched wheel is missing and how to get it, from files alone.

    Imports nothing. None means that the parts are there, not that pools are active: settings
    and the binding of the hooks are known only once TensorFlow runs (`inactive_reason`).
    """
    if _NATIVE in sys.modules:
        return None
    tensorflow = find_tensorflow()
    if tensorflow is None:
        return (
            f"TensorFlow is not installed for {sys.executable} "
            f"(Python {sys.version_info.major}.{sys.version_info.minor}). {HOW_TO_GET}"
        )
    if not tensorflow.patched:
        if not (_PACKAGE_DIR / _LIBRARY).is_file():
            if tensorflow.overwritten is not None:
                return tensorflow.overwritten.text()
            return f"{tensorflow} is not patched (it contains no {_LIBRARY}). {HOW_TO_GET}"
        refused = refusal(tensorflow)
        if refused is not None:
            return refused
        if _waits_to_be_preloaded(tensorflow):
            return f"{tensorflow} is not patched, and the library was not preloaded. {HOW_TO_RUN}"
    if _has_native():
        return None
    others = sorted(path.name for path in _PACKAGE_DIR.glob("_native*.so"))
    if others:
        return (
            f"the native module in {_PACKAGE_DIR} is for another "
            f"Python: found {', '.join(others)}, this Python needs "
            f"_native{_extension_suffixes()[0]}. {HOW_TO_GET}"
        )
    if (_PACKAGE_DIR / _BUILD_INFO).is_file():
        return None  # installed, and built without one
    return (
        f"{tensorflow} is patched, but tf_model_pool was imported "
        f"from {_PACKAGE_DIR}, which is not the copy that was installed with it and has no "
        f"native module. Take {_PACKAGE_DIR.parent} off sys.path (PYTHONPATH, the working "
        "directory, an editable install)."
    )


def refusal(tensorflow: TensorFlowLocation) -> str | None:
    """Why the library beside this package may not be loaded into an untouched TensorFlow.

    It is compiled for one release; TensorFlow's classes have other members in another. None if
    this is that release.
    """
    try:
        wanted = str(build_info().get("tensorflow_version"))
    except NotActiveError as error:
        return str(error)
    if tensorflow.version == wanted:
        return None
    return (
        f"{tensorflow} is not the TensorFlow {wanted} that this library was made for. "
        f"{HOW_TO_GET_LIBRARY}"
    )


def package_directory() -> Path:
    """Where this package lies, with the libraries that came with it."""
    return _PACKAGE_DIR


def preloaded() -> bool:
    """True where this process was started with the library for an untouched TensorFlow."""
    return hasattr(ctypes.CDLL(None), "tf_model_pool_preload_target")


def is_active() -> bool:
    """True when restores of this process go to model pools.

    Never raises: False without TensorFlow, with an unpatched one, with `TF_MODEL_POOL=off`,
    with a malformed setting. `inactive_reason()` says which. Imports TensorFlow.
    """
    return inactive_reason() is None


def inactive_reason() -> str | None:
    """Why pools are not active, in words for a person; None if they are.

    Imports TensorFlow. Raises nothing.
    """
    why = why_inactive()
    return None if why is None else why[1]


def why_inactive() -> tuple[InactiveCode, str] | None:
    """As `inactive_reason`, and which kind of reason that is."""
    try:
        native = _load_native()
    except NotActiveError as error:
        waits = _waits_to_be_preloaded(find_tensorflow())
        return "not_preloaded" if waits else "missing", str(error).removeprefix(PREFIX)
    status = native.status()
    return None if status.active else (status.code, str(status.reason))


def pools() -> list[PoolStats]:
    """All pools of this process; [] before the first load and with `TF_MODEL_POOL=off`.

    Raises:
        NotActiveError: without the patched TensorFlow.
        SettingError: a `TF_MODEL_POOL*` variable is malformed.
    """
    return [_copy(PoolStats, entry) for entry in _checked_native().list_pools()]


def totals() -> Totals:
    """The sums over all pools of this process, and what fell back. Raises as `pools`."""
    return _copy(Totals, _checked_native().totals())


def load_totals() -> LoadTotals:
    """How C++ loads of this process restored, and why TensorFlow ran a graph. Raises as `pools`."""
    return _copy(LoadTotals, _checked_native().load_totals())


def pool_of(value: object) -> str | None:
    """The name of the pool in which a buffer lies, None if it lies in none.

    Nothing is copied. A variable is read through TensorFlow, which shares its buffer, until the
    variable has been read by `ResourceGather` (an embedding look-up): from then on TensorFlow
    copies on every other read, and the answer is that of the copy, None.

    Args:
        value: an eager tensor on a CPU, a `tf.Variable` (or an object whose `value` is one, as
            a Keras variable), a NumPy array, or an address as int. A tensor without elements
            has no buffer, so the answer is None.

    Raises:
        NotActiveError, SettingError: as `pools`.
        TypeError: a symbolic tensor, a string tensor (its strings have no one buffer, and
            TensorFlow shows Python no address for it), a tensor on another device, a tensor
            made of several, or another type.
        ValueError: an int which is no address.
    """
    native = _checked_native()
    address = address_of(value)
    if address is None:
        return None
    return cast("str", native.pool_of(address)) or None


def trim() -> int:
    """Gives the memory of standby pools back to the system; returns the bytes given back.

    Pools in use are left alone; `TF_MODEL_POOL_RETAIN` does the same without a call.
    Raises as `pools`.
    """
    return int(_checked_native().trim())


def settings() -> dict[str, str]:
    """The settings in force, as the text that would set them; "" is an unset limit.

    Raises as `pools`: with a malformed variable no settings are in force.
    """
    return {str(name): str(value) for name, value in _checked_native().settings().items()}


def binding() -> Literal["native", "c"]:
    """How this package asks the library: by its native module, or over the C interface.

    Both give the same answers. A wheel has no native module if the headers of its Python were
    not at hand when it was built; `build_info()["native_missing"]` says so. Imports nothing.
    """
    return "native" if _NATIVE in sys.modules or _has_native() else "c"


def build_info() -> dict[str, Any]:
    """How the wheel was made: base wheel and its sha256, patch set version, compiler.

    `native_missing` says why there is no native module, None if there is one; `binding` is
    that of `binding()`. Read from the file `build_info.json` of the package; imports nothing.

    Raises:
        NotActiveError: the file is missing or damaged, as in a checkout.
    """
    path = _PACKAGE_DIR / _BUILD_INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotActiveError(
            f"{path} is missing: this tf_model_pool did not come with a patched wheel. "
            + HOW_TO_GET
        ) from error
    except ValueError as error:
        raise NotActiveError(f"{path} is damaged ({error}); install the wheel again.") from error
    if not isinstance(info, dict):
        raise NotActiveError(f"{path} is damaged (not an object); install the wheel again.")
    return {**info, "binding": binding()}


def link_flags() -> list[str]:
    """Linker flags for a C++ program that uses the new members of `ProcessState`.

    They add to TensorFlow's own (`tf.sysconfig.get_link_flags()`), after the program's
    sources. Imports nothing.

    Raises:
        NotActiveError: TensorFlow is missing or not patched.
    """
    tensorflow = find_tensorflow()
    if tensorflow is None or not tensorflow.patched:
        raise NotActiveError(PREFIX + (missing_parts() or HOW_TO_GET))
    return [
        f"-L{tensorflow.directory}",
        f"-l:{_LIBRARY}",
        f"-Wl,-rpath,{tensorflow.directory}",
    ]


def _waits_to_be_preloaded(tensorflow: TensorFlowLocation | None) -> bool:
    """True if the library for this untouched TensorFlow is here, and nobody has preloaded it."""
    return (
        tensorflow is not None
        and not tensorflow.patched
        and (_PACKAGE_DIR / _LIBRARY).is_file()
        and not preloaded()
    )


def _extension_suffixes() -> list[str]:
    return importlib.machinery.EXTENSION_SUFFIXES


def _has_native() -> bool:
    return any((_PACKAGE_DIR / f"_native{end}").is_file() for end in _extension_suffixes())


def _load_native() -> Any:
    """TensorFlow first, then the binding; NotActiveError says which of them failed."""
    missing = missing_parts()
    if missing is not None:
        raise NotActiveError(PREFIX + missing)
    # TensorFlow's import runs other people's code (NumPy, protobuf, Keras), which fails in
    # more ways than ImportError; is_active() promises an answer for all of them.
    try:
        importlib.import_module("tensorflow")
    except Exception as error:
        raise NotActiveError(f"{PREFIX}TensorFlow does not import: {_describe(error)}") from error
    if preloaded():
        # It would load ours when TensorFlow first needs a device, which may be later.
        ctypes.CDLL(None).tf_model_pool_preload_target(b"")
    name, what = (_NATIVE, "native module") if binding() == "native" else (_C_INTERFACE, "binding")
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise NotActiveError(
            f"{PREFIX}the {what} does not load: {_describe(error)}. "
            "Is another TensorFlow installed over the patched one? " + HOW_TO_GET
        ) from error


def _checked_native() -> Any:
    """The native module where its answers mean something; off is such a case."""
    native = _load_native()
    status = native.status()
    if status.code in ("active", "off"):
        return native
    if status.code == "malformed_setting":
        raise SettingError(str(status.reason))
    raise NotActiveError(PREFIX + str(status.reason))


def _copy(kind: type[_Record], source: Any) -> _Record:
    return kind(**{field.name: getattr(source, field.name) for field in dataclasses.fields(kind)})


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}"


def address_of(value: object) -> int | None:
    """The address of the buffer behind a value; None where there is no buffer."""
    import numpy as np  # comes with TensorFlow, which is loaded when this runs

    tf: Any = importlib.import_module("tensorflow")
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        address = int(value)
        if not 0 <= address < 2**64:
            raise ValueError(f"{address} is not an address (0 to 2**64 - 1)")
        return address
    if isinstance(value, np.ndarray):
        return _array_address(value)
    if not isinstance(value, tf.Variable) and isinstance(
        getattr(value, "value", None), tf.Variable
    ):
        value = value.value  # type: ignore[attr-defined]
    eager_tensor: Any = tf.__internal__.EagerTensor
    if isinstance(value, tf.Variable):
        value = _read(value, tf, eager_tensor)
    if isinstance(value, eager_tensor):
        return _tensor_address(value, tf)
    if tf.is_tensor(value) and hasattr(value, "op"):
        raise TypeError(
            f"{_type_name(value)} is symbolic and has no buffer: call pool_of on an eager tensor "
            "or on a variable, outside of tf.function and graphs"
        )
    if tf.is_tensor(value):
        raise TypeError(
            f"{_type_name(value)} consists of several tensors: call pool_of on each of them "
            "(.values, .indices, .flat_values, .row_splits)"
        )
    raise TypeError(
        "pool_of takes an eager tensor, a tf.Variable, a NumPy array or an address as int, "
        f"not {_type_name(value)}"
    )


def _read(variable: Any, tf: Any, eager_tensor: Any) -> Any:
    handle = getattr(variable, "handle", None)
    if not isinstance(handle, eager_tensor):
        raise TypeError(
            f"{_type_name(variable)} belongs to a graph and has no buffer that Python can see: "
            "pool_of needs a variable made or loaded eagerly"
        )
    # Not variable.read_value(): that marks the variable as used on an active gradient tape.
    # eager_mode: the caller may be building a graph or tracing a function.
    with tf.__internal__.eager_context.eager_mode():
        return tf.raw_ops.ReadVariableOp(resource=handle, dtype=variable.dtype)


def _tensor_address(tensor: Any, tf: Any) -> int | None:
    # TensorFlow ends the process when such a tensor is asked for its memory through DLPack,
    # and copies it on the way to NumPy.
    if tensor.dtype in (tf.string, tf.resource, tf.variant):
        raise TypeError(
            f"a {tensor.dtype.name} tensor does not show Python the address of its buffer"
        )
    if "CPU" not in tensor.backing_device:
        raise TypeError(f"the tensor lies on {tensor.backing_device}, model pools are for CPUs")
    if tensor.shape.rank == 0:
        # NumPy conversion copies a scalar; eager Reshape shares the buffer.
        with tf.__internal__.eager_context.eager_mode():
            tensor = tf.raw_ops.Reshape(tensor=tensor, shape=[1])
    # _numpy() is numpy() less the copy: an array over the tensor's own buffer. DLPack does not
    # know the quantised and float8 types, memoryview() not bfloat16.
    array = tensor._numpy()
    if array.size and array.flags.owndata:
        raise TypeError(f"TensorFlow copies a {tensor.dtype.name} tensor for Python")
    return _array_address(array)


def _array_address(array: Any) -> int | None:
    return int(array.__array_interface__["data"][0]) if array.size else None


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
