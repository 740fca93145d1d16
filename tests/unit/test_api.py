# SPDX-License-Identifier: Apache-2.0
"""The public functions against a stand-in for the native module, without TensorFlow.

What needs the real library (where a restored tensor lies) is tested under tests/integration.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.machinery
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import tf_model_pool
from tf_model_pool import api, doctor
from tf_model_pool.errors import ModelPoolError, NotActiveError, SettingError

np = pytest.importorskip("numpy")

PACKAGE_PARENT = Path(tf_model_pool.__file__).resolve().parent.parent
MALFORMED = 'TF_MODEL_POOL_SLOTS="many" is not valid: allowed is a whole number from 1 to 26'


def native_pool(**changes: Any) -> types.SimpleNamespace:
    values: dict[str, Any] = {
        field.name: index for index, field in enumerate(dataclasses.fields(api.PoolStats))
    }
    values |= {"name": "ctr/3", "model_dir": "/m/ctr", "version": "3", "slot": "A"}
    return types.SimpleNamespace(**(values | {"state": "live"} | changes))


def native_totals() -> types.SimpleNamespace:
    values: dict[str, Any] = {
        field.name: index for index, field in enumerate(dataclasses.fields(api.Totals))
    }
    return types.SimpleNamespace(**(values | {"last_fallback_reason": ""}))


def native_load_totals() -> types.SimpleNamespace:
    return types.SimpleNamespace(
        direct_restores=3,
        graph_restores=1,
        cold_versions=0,
        last_graph_restore_reason="it reads a slice",
    )


class FakeNative(types.ModuleType):
    """Answers as tf_model_pool._native does; the attributes are what it was told to answer."""

    def __init__(self) -> None:
        super().__init__("tf_model_pool._native")
        self.code = "active"
        self.reason = ""
        self.pools: list[types.SimpleNamespace] = []
        self.ranges: dict[range, str] = {}
        self.trimmed = 0

    def status(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(
            active=self.code == "active", code=self.code, reason=self.reason
        )

    def list_pools(self) -> list[types.SimpleNamespace]:
        return self.pools

    def totals(self) -> types.SimpleNamespace:
        return native_totals()

    def load_totals(self) -> types.SimpleNamespace:
        return native_load_totals()

    def pool_of(self, address: int) -> str:
        return next((name for held, name in self.ranges.items() if address in held), "")

    def trim(self) -> int:
        return self.trimmed

    def settings(self) -> dict[str, str]:
        return {"TF_MODEL_POOL": "on"}


class FakeDType:
    def __init__(self, name: str) -> None:
        self.name = name


class FakeEagerTensor:
    """A tensor over an array; `copies` makes _numpy() behave as for a type that must be copied."""

    def __init__(
        self, array: Any, dtype: FakeDType | None = None, *, copies: bool = False, device: str = ""
    ) -> None:
        self.array = array
        self.dtype = dtype or FakeDType("float32")
        self.shape = types.SimpleNamespace(rank=array.ndim)
        self.backing_device = device or "/job:localhost/device:CPU:0"
        self.copies = copies

    def _numpy(self) -> Any:
        # As TensorFlow does, which returns scalars by copy.
        return self.array.copy() if self.copies or self.array.ndim == 0 else self.array[...]


class FakeSymbolicTensor:
    op = "an operation"


class FakeRaggedTensor:
    pass


class FakeVariable:
    def __init__(self, tensor: FakeEagerTensor, *, in_graph: bool = False) -> None:
        self.dtype = tensor.dtype
        handle: Any = FakeSymbolicTensor() if in_graph else FakeEagerTensor(np.zeros(1))
        handle.refers_to = tensor
        self.handle = handle


class _Context:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def fake_tensorflow() -> types.ModuleType:
    tf: Any = types.ModuleType("tensorflow")
    tf.string, tf.resource, tf.variant = map(FakeDType, ("string", "resource", "variant"))
    tf.Variable = FakeVariable
    tf.is_tensor = lambda value: isinstance(
        value, (FakeEagerTensor, FakeSymbolicTensor, FakeRaggedTensor, FakeVariable)
    )
    tf.__internal__ = types.SimpleNamespace(
        EagerTensor=FakeEagerTensor,
        eager_context=types.SimpleNamespace(eager_mode=_Context),
    )
    tf.raw_ops = types.SimpleNamespace(
        ReadVariableOp=lambda resource, dtype: resource.refers_to,
        Reshape=lambda tensor, shape: FakeEagerTensor(tensor.array.reshape(shape), tensor.dtype),
    )
    return tf  # type: ignore[no-any-return]


@pytest.fixture
def tf(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = fake_tensorflow()
    monkeypatch.setitem(sys.modules, "tensorflow", module)
    return module


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch, tf: Any) -> FakeNative:
    module = FakeNative()
    monkeypatch.setitem(sys.modules, "tf_model_pool._native", module)
    return module


@pytest.fixture
def package_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty directory that api.py takes for its own."""
    directory = tmp_path / "tf_model_pool"
    directory.mkdir()
    monkeypatch.setattr(api, "_PACKAGE_DIR", directory)
    monkeypatch.delitem(sys.modules, "tf_model_pool._native", raising=False)
    return directory


def locate(monkeypatch: pytest.MonkeyPatch, found: api.TensorFlowLocation | None) -> None:
    monkeypatch.setattr(api, "find_tensorflow", lambda: found)


def install_tensorflow(directory: Path, *, patched: bool, version: str = "2.21.0") -> Any:
    """A directory as TensorFlow's wheel leaves it, as far as find_tensorflow looks."""
    package = directory / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    if patched:
        (package / "libtf_model_pool.so").write_bytes(b"")
    metadata = directory / f"tensorflow_cpu-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: tensorflow-cpu\nVersion: {version}\n", encoding="utf-8"
    )
    return package


# ---- which part is missing


def test_missing_tensorflow_is_named_with_the_interpreter(
    monkeypatch: pytest.MonkeyPatch, package_dir: Path
) -> None:
    locate(monkeypatch, None)
    missing = api.missing_parts()
    assert missing is not None
    assert "TensorFlow is not installed" in missing
    assert sys.executable in missing
    assert "./build.sh" in missing


def test_unpatched_tensorflow_is_named_with_version_and_place(
    monkeypatch: pytest.MonkeyPatch, package_dir: Path, tmp_path: Path
) -> None:
    package = install_tensorflow(tmp_path, patched=False)
    locate(monkeypatch, api.TensorFlowLocation(package, "tensorflow-cpu", "2.21.0"))
    missing = api.missing_parts()
    assert missing is not None
    assert "TensorFlow 2.21.0" in missing
    assert str(package) in missing
    assert "not patched" in missing
    assert "pip install" in missing


def add_library_for_untouched_tensorflow(
    monkeypatch: pytest.MonkeyPatch, package_dir: Path, *, preloaded: bool
) -> None:
    (package_dir / "libtf_model_pool.so").write_bytes(b"")
    (package_dir / "build_info.json").write_text('{"tensorflow_version": "2.21.0"}')
    (package_dir / f"_native{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"")
    monkeypatch.setattr(api, "preloaded", lambda: preloaded)


def test_a_library_that_was_not_preloaded_is_said_with_the_command(
    monkeypatch: pytest.MonkeyPatch, package_dir: Path, tmp_path: Path
) -> None:
    package = install_tensorflow(tmp_path, patched=False)
    locate(monkeypatch, api.TensorFlowLocation(package, "tensorflow-cpu", "2.21.0"))
    add_library_for_untouched_tensorflow(monkeypatch, package_dir, preloaded=False)
    missing = api.missing_parts()
    assert missing is not None
    assert "the library was not preloaded" in missing
    assert "python -m tf_model_pool run -- CMD" in missing


def test_an_untouched_tensorflow_with_the_library_preloaded_misses_nothing(
    monkeypatch: pytest.MonkeyPatch, package_dir: Path, tmp_path: Path
) -> None:
    package = install_tensorflow(tmp_path, patched=False)
    locate(monkeypatch, api.TensorFlowLocation(package, "tensorflow-cpu", "2.21.0"))
    add_library_for_untouched_tensorflow(monkeypatch, package_dir, preloaded=True)
    assert api.missing_parts() is None


@pytest.mark.parametrize("preloaded", [False, True])
def test_the_library_of_another_release_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, package_dir: Path, tmp_path: Path, preloaded: bool
) -> None:
    # GIVEN a TensorFlow that was updated under the library for an untouched one
    package = install_tensorflow(tmp_path, patched=False)
    locate(monkeypatch, api.TensorFlowLocation(package, "tensorflow-cpu", "2.22.0rc0"))
    add_library_for_untouched_tensorflow(monkeypatch, package_dir, preloaded=preloaded)
    # THEN the binding, which would load it, is not imported
    reason = api.inactive_reason()
    assert reason is not None
    assert "TensorFlow 2.22.0rc0" in reason
    assert "is not the TensorFlow 2.21.0 that this library was made for" in reason


def test_this_process_was_not_started_with_the_library() -> None:
    assert not api.preloaded()


def test_hash_of_a_file_is_the_one_in_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = install_tensorflow(tmp_path, patched=False)
    record = tmp_path / "tensorflow_cpu-2.21.0.dist-info" / "RECORD"
    record.write_text(
        "tensorflow/a.so,sha256=abc,3\ntensorflow/a.so.2,sha256=def,4\ntensorflow/b,,\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    location = api.TensorFlowLocation(package, "tensorflow-cpu", "2.21.0")
    assert location.recorded_hash("tensorflow/a.so") == "sha256=abc"
    assert location.recorded_hash("tensorflow/b") is None
    assert location.recorded_hash("tensorflow/c") is None
    assert api.TensorFlowLocation(package, None, None).recorded_hash("tensorflow/a.so") is None


def test_native_module_for_another_python_is_named(
    monkeypatch: pytest.MonkeyPatch, package_dir: Path, tmp_path: Path
) -> None:
    package = install_tensorflow(tmp_path, patched=True)
    locate(monkeypatch, api.TensorFlowLocation(package, "tensorflow-cpu", "2.21.0"))
    (package_dir / "_native.cpython-399-x86_64-linux-gnu.so").write_bytes(b"")
    missing = api.missing_parts()
    assert missing is not None
    assert "_native.cpython-399-x86_64-linux-gnu.so" in missing
    assert f"_native{importlib.machinery.EXTENSION_SUFFIXES[0]}" in missing


def test_checkout_that_hides_the_installed_package_is_named(
    monkeypatch: pytest.MonkeyPatch, package_dir: Path, tmp_path: Path
) -> None:
    package = install_tensorflow(tmp_path, patched=True)
    locate(monkeypatch, api.TensorFlowLocation(package, "tensorflow-cpu", "2.21.0"))
    missing = api.missing_parts()
    assert missing is not None
    assert "sys.path" in missing
    assert str(package_dir) in missing


def test_complete_installation_misses_nothing(
    monkeypatch: pytest.MonkeyPatch, package_dir: Path, tmp_path: Path
) -> None:
    package = install_tensorflow(tmp_path, patched=True)
    locate(monkeypatch, api.TensorFlowLocation(package, "tensorflow-cpu", "2.21.0"))
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (package_dir / f"_native{suffix}").write_bytes(b"")
    assert api.missing_parts() is None


def test_an_installation_without_a_native_module_uses_the_c_interface(
    monkeypatch: pytest.MonkeyPatch, package_dir: Path, tmp_path: Path, tf: Any
) -> None:
    # GIVEN a wheel that was built without one
    package = install_tensorflow(tmp_path, patched=True)
    locate(monkeypatch, api.TensorFlowLocation(package, "tensorflow-cpu", "2.21.0"))
    (package_dir / "build_info.json").write_text('{"native_missing": "no Python.h"}')
    monkeypatch.setitem(sys.modules, "tf_model_pool._c_interface", FakeNative())
    # THEN
    assert api.missing_parts() is None
    assert api.binding() == "c"
    assert api.build_info() == {"native_missing": "no Python.h", "binding": "c"}
    assert api.is_active()
    assert doctor.describe_binding() == "C interface (no native module: no Python.h)"


def test_a_process_without_the_library_has_no_c_interface() -> None:
    code = "import tf_model_pool._c_interface"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}
    child = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "ImportError: libtf_model_pool.so is not loaded in this process" in child.stderr


def test_tensorflow_is_found_without_importing_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # GIVEN a TensorFlow whose import would fail
    package = install_tensorflow(tmp_path, patched=True, version="2.21.0+modelpool.9")
    (package / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    # WHEN it is located
    location = api.find_tensorflow()
    # THEN it is this one, and it was not imported
    assert location == api.TensorFlowLocation(package, "tensorflow-cpu", "2.21.0+modelpool.9")
    assert location.patched
    assert "tensorflow" not in sys.modules


def test_leftover_directory_without_code_is_not_a_tensorflow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tensorflow").mkdir()
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    assert api.find_tensorflow() is None


# ---- importing the package


def run_python(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Runs an interpreter that sees this package, `path` and NumPy, but no other TensorFlow."""
    block = f"""
import sys

class Block:
    @staticmethod
    def find_spec(name, *_):
        if name.partition(".")[0] == "tensorflow":
            raise ImportError(name)

sys.path[:0] = [{str(PACKAGE_PARENT)!r}, {str(path)!r}]
sys.meta_path.insert(0, Block)
"""
    code, *rest = arguments
    return subprocess.run(
        [sys.executable, "-c", block + code, *rest],
        capture_output=True,
        text=True,
        check=False,
    )


def test_import_without_tensorflow_warns_once_and_succeeds(tmp_path: Path) -> None:
    done = run_python(
        "import tf_model_pool; import tf_model_pool.api; print(tf_model_pool.is_active())",
        path=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False"]
    assert done.stderr.count("InactiveWarning: Model pools are not active") == 1
    assert "Traceback" not in done.stderr


def test_import_imports_neither_tensorflow_nor_the_native_module(tmp_path: Path) -> None:
    done = run_python(
        "import tf_model_pool; "
        "print([m for m in sys.modules if m in ('tensorflow', 'numpy', 'tf_model_pool._native')])",
        path=tmp_path,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_import_warning_can_be_filtered_by_its_class(tmp_path: Path) -> None:
    done = run_python(
        "import warnings; warnings.filterwarnings('ignore', message='Model pools are not active')\n"
        "import tf_model_pool; print('quiet')",
        path=tmp_path,
    )
    assert (done.stdout.strip(), done.stderr) == ("quiet", "")


def test_command_line_does_not_warn_about_missing_parts(
    monkeypatch: pytest.MonkeyPatch, package_dir: Path, recwarn: pytest.WarningsRecorder
) -> None:
    locate(monkeypatch, None)
    monkeypatch.setattr(tf_model_pool, "missing_parts", api.missing_parts)
    # GIVEN the state in which `python -m tf_model_pool doctor` imports the package
    monkeypatch.setattr(sys, "argv", ["-m", "doctor"])
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", "tf_model_pool", "doctor"])
    tf_model_pool._warn_if_parts_are_missing()
    assert not recwarn.list
    # WHEN another module is run that imports the package
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", "server"])
    tf_model_pool._warn_if_parts_are_missing()
    # THEN it does warn
    assert [entry.category for entry in recwarn.list] == [api.InactiveWarning]


# ---- active or not


def test_active_pools_have_no_reason(native: FakeNative) -> None:
    assert tf_model_pool.is_active() is True
    assert tf_model_pool.inactive_reason() is None


@pytest.mark.parametrize("code", ["off", "malformed_setting", "hooks_not_bound"])
def test_inactive_pools_give_the_native_reason(native: FakeNative, code: str) -> None:
    native.code, native.reason = code, "in words"
    assert tf_model_pool.is_active() is False
    assert tf_model_pool.inactive_reason() == "in words"


@pytest.mark.parametrize("call", [api.pools, api.totals, api.trim, api.settings])
def test_calls_without_the_patched_wheel_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, package_dir: Path, call: Any
) -> None:
    locate(monkeypatch, None)
    assert tf_model_pool.is_active() is False
    with pytest.raises(NotActiveError, match=r"TensorFlow is not installed.*build\.sh"):
        call()
    with pytest.raises(NotActiveError, match="TensorFlow is not installed"):
        api.pool_of(0)


@pytest.mark.parametrize("call", [api.pools, api.totals, api.trim, api.settings])
def test_malformed_setting_is_an_error_of_its_own(native: FakeNative, call: Any) -> None:
    native.code, native.reason = "malformed_setting", MALFORMED
    with pytest.raises(SettingError) as caught:
        call()
    assert str(caught.value) == MALFORMED
    assert isinstance(caught.value, ModelPoolError)


def test_unbound_hooks_are_not_a_setting_error(native: FakeNative) -> None:
    native.code, native.reason = "hooks_not_bound", "hooks not bound: RestoreTensorsV2"
    with pytest.raises(NotActiveError, match="RestoreTensorsV2"):
        api.pools()


def test_switched_off_pools_answer_empty(native: FakeNative) -> None:
    native.code, native.reason = "off", "TF_MODEL_POOL=off"
    assert api.pools() == []
    assert api.pool_of(4096) is None
    assert api.trim() == 0


def test_tensorflow_that_does_not_import_is_inactive_with_its_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package_dir: Path
) -> None:
    # GIVEN a patched TensorFlow that fails in a way other than ImportError
    package = install_tensorflow(tmp_path, patched=True)
    (package / "__init__.py").write_text("raise TypeError('wrong NumPy')", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (package_dir / f"_native{suffix}").write_bytes(b"")
    # THEN nothing is raised by the question, and the calls name the error
    assert api.is_active() is False
    with pytest.raises(NotActiveError, match="TypeError: wrong NumPy"):
        api.pools()


def test_tensorflow_is_imported_before_the_native_module(
    monkeypatch: pytest.MonkeyPatch, native: FakeNative
) -> None:
    order: list[str] = []
    original = importlib.import_module

    def recording(name: str, package: str | None = None) -> types.ModuleType:
        order.append(name)
        return original(name, package)

    monkeypatch.setattr(importlib, "import_module", recording)
    api.pools()
    assert order == ["tensorflow", "tf_model_pool._native"]


# ---- what the pools report


def test_pools_copy_every_field(native: FakeNative) -> None:
    native.pools = [native_pool(), native_pool(slot="B", bytes_in_use=7 << 20)]
    first, second = api.pools()
    assert dataclasses.asdict(first) == vars(native.pools[0])
    assert (second.slot, second.bytes_in_use) == ("B", 7 << 20)
    assert dataclasses.asdict(api.totals()) == vars(native_totals())
    assert dataclasses.asdict(api.load_totals()) == vars(native_load_totals())


def test_records_cannot_be_changed(native: FakeNative) -> None:
    native.pools = [native_pool()]
    (pool,) = api.pools()
    with pytest.raises(dataclasses.FrozenInstanceError):
        pool.name = "other"  # type: ignore[misc]


def test_native_stub_lists_the_fields_of_the_records() -> None:
    stub = (PACKAGE_PARENT / "tf_model_pool" / "_native.pyi").read_text(encoding="utf-8")
    for record in (api.PoolStats, api.Totals, api.LoadTotals):
        body = stub.split(f"class {record.__name__}:")[1].split("\nclass ")[0]
        for field in dataclasses.fields(record):
            assert f"def {field.name}(self)" in body


def test_trim_returns_the_bytes(native: FakeNative) -> None:
    native.trimmed = 3 << 21
    assert api.trim() == 3 << 21


# ---- the pool of a buffer


def address_of(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def hold(native: FakeNative, array: Any, name: str = "ctr/3") -> None:
    native.ranges[range(address_of(array), address_of(array) + array.nbytes)] = name


def test_pool_of_an_address(native: FakeNative) -> None:
    native.ranges[range(4096, 8192)] = "ctr/3"
    assert api.pool_of(4096) == "ctr/3"
    assert api.pool_of(8191) == "ctr/3"
    assert api.pool_of(np.int64(4100)) == "ctr/3"
    assert api.pool_of(8192) is None


@pytest.mark.parametrize("address", [-1, 2**64])
def test_number_that_is_no_address_is_refused(native: FakeNative, address: int) -> None:
    with pytest.raises(ValueError, match="not an address"):
        api.pool_of(address)


def test_pool_of_a_tensor_and_of_an_array(native: FakeNative) -> None:
    held, other = np.zeros(64, np.float32), np.zeros(64, np.float32)
    hold(native, held)
    assert api.pool_of(FakeEagerTensor(held)) == "ctr/3"
    assert api.pool_of(held) == "ctr/3"
    assert api.pool_of(FakeEagerTensor(other)) is None
    assert api.pool_of(other) is None


def test_pool_of_a_scalar_is_not_that_of_its_copy(native: FakeNative) -> None:
    held = np.array(3.0)
    hold(native, held)
    assert api.pool_of(FakeEagerTensor(held)) == "ctr/3"


def test_pool_of_a_variable(native: FakeNative) -> None:
    held = np.zeros(64, np.float32)
    hold(native, held)
    variable = FakeVariable(FakeEagerTensor(held))
    assert api.pool_of(variable) == "ctr/3"
    keras_variable = types.SimpleNamespace(value=variable)
    assert api.pool_of(keras_variable) == "ctr/3"


def test_tensor_without_elements_lies_in_no_pool(native: FakeNative) -> None:
    native.ranges[range(2**63)] = "everywhere"
    assert api.pool_of(FakeEagerTensor(np.zeros(0))) is None


def test_copied_tensor_is_refused_rather_than_misreported(native: FakeNative) -> None:
    with pytest.raises(TypeError, match="copies"):
        api.pool_of(FakeEagerTensor(np.zeros(4), copies=True))


@pytest.mark.parametrize("kind", ["string", "resource", "variant"])
def test_tensor_without_one_buffer_is_refused(native: FakeNative, tf: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=kind):
        api.pool_of(FakeEagerTensor(np.zeros(4), getattr(tf, kind)))


def test_tensor_on_another_device_is_refused(native: FakeNative) -> None:
    with pytest.raises(TypeError, match="GPU:0"):
        api.pool_of(FakeEagerTensor(np.zeros(4), device="/job:localhost/device:GPU:0"))


def test_graph_tensors_and_variables_are_refused(native: FakeNative) -> None:
    with pytest.raises(TypeError, match="symbolic"):
        api.pool_of(FakeSymbolicTensor())
    with pytest.raises(TypeError, match="belongs to a graph"):
        api.pool_of(FakeVariable(FakeEagerTensor(np.zeros(4)), in_graph=True))
    with pytest.raises(TypeError, match="several tensors"):
        api.pool_of(FakeRaggedTensor())


@pytest.mark.parametrize("value", [True, None, "ctr", 1.5, [1]])
def test_other_types_are_refused_by_name(native: FakeNative, value: object) -> None:
    with pytest.raises(TypeError, match=f"pool_of takes .*{type(value).__name__}"):
        api.pool_of(value)


# ---- build information and flags


def test_build_info_is_the_packaged_file(package_dir: Path) -> None:
    (package_dir / "build_info.json").write_text(json.dumps({"base": "x"}), encoding="utf-8")
    assert api.build_info() == {"base": "x", "binding": "c"}


def test_missing_build_info_says_where_it_was_expected(package_dir: Path) -> None:
    with pytest.raises(NotActiveError, match=r"build_info\.json is missing"):
        api.build_info()


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_damaged_build_info_is_an_error_of_the_package(package_dir: Path, content: str) -> None:
    (package_dir / "build_info.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(NotActiveError, match="damaged"):
        api.build_info()


def test_link_flags_name_the_library_and_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = install_tensorflow(tmp_path, patched=True)
    locate(monkeypatch, api.TensorFlowLocation(package, "tensorflow-cpu", "2.21.0"))
    assert api.link_flags() == [
        f"-L{package}",
        "-l:libtf_model_pool.so",
        f"-Wl,-rpath,{package}",
    ]


def test_link_flags_need_the_patched_tensorflow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package_dir: Path
) -> None:
    package = install_tensorflow(tmp_path, patched=False)
    locate(monkeypatch, api.TensorFlowLocation(package, "tensorflow-cpu", "2.21.0"))
    with pytest.raises(NotActiveError, match="not patched"):
        api.link_flags()


def test_every_public_name_exists() -> None:
    for name in tf_model_pool.__all__:
        assert getattr(tf_model_pool, name) is not None
