# SPDX-License-Identifier: Apache-2.0
"""A small stand-in for a released TensorFlow wheel and for this project's sources.

The builder treats it as the real thing: the libraries export functions of the same mangled names,
bound in the same ways, and the headers have the lines that the real patches change. It builds in a
second, so the whole pipeline can be tested, and broken on purpose, at every stage.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.checkouts import diff, mail
from tf_model_pool_build.releases import releases
from tf_model_pool_build.wheel import source

VERSION = "9.9.0"
PLATFORM = "manylinux_2_27_x86_64"
COMPILER = "g++"
PYTHON_TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"
DATE = (2026, 3, 5, 0, 16, 0)

FRAMEWORK_SOURCE = """
namespace tsl { struct AllocatorAttributes { unsigned value; int scope; }; }
namespace tensorflow {
class ThreadPoolDevice {
 public:
  virtual ~ThreadPoolDevice() {}
  virtual int GetAllocator(tsl::AllocatorAttributes attributes);
  virtual int MakeTensorFromProto(int value);
};
int ThreadPoolDevice::GetAllocator(tsl::AllocatorAttributes attributes) {
  return static_cast<int>(attributes.value) + 1;
}
int ThreadPoolDevice::MakeTensorFromProto(int value) { return 2 * value; }
int RestoreSession(int value) { return 7 * value + 1; }
__attribute__((noinline)) int Ask(ThreadPoolDevice* device) {
  return 1000 * device->MakeTensorFromProto(3) + device->GetAllocator({6, 0});
}
}
extern "C" int ask_load(int value) { return tensorflow::RestoreSession(value); }
extern "C" int ask_device() {
  tensorflow::ThreadPoolDevice device;
  return tensorflow::Ask(&device);
}
"""

CC_SOURCE = """
namespace tensorflow {
int RestoreTensorsV2(int value) { return 3 * value + 1; }
int RestoreTensor(int value) { return 5 * value + 1; }
}
extern "C" int ask_restore(int value) {
  return 1000 * tensorflow::RestoreTensorsV2(value) + tensorflow::RestoreTensor(value);
}
"""

LIBRARY_SOURCE = """
namespace tsl { struct AllocatorAttributes { unsigned value; int scope; }; }
namespace tensorflow {
class ThreadPoolDevice {
 public:
  virtual ~ThreadPoolDevice() {}
  virtual int GetAllocator(tsl::AllocatorAttributes attributes);
  virtual int MakeTensorFromProto(int value);
};
int ThreadPoolDevice::GetAllocator(tsl::AllocatorAttributes) { return 70; }
int ThreadPoolDevice::MakeTensorFromProto(int value) { return 20 * value; }
int RestoreTensorsV2(int value) { return 100 + value; }
int RestoreTensor(int value) { return 200 + value; }
int RestoreSession(int value) { return 300 + value; }
}
extern "C" const char* built_in() { return __FILE__; }
"""

CMAKE = """
cmake_minimum_required(VERSION 3.20)
project(fake LANGUAGES CXX)
foreach(wanted TF_INCLUDE_DIR TF_LIB_DIR TF_MODEL_POOL_RESTORE_V2_OFFSET
        TF_MODEL_POOL_RESTORE_V2_CODE TF_MODEL_POOL_RESTORE_V1_OFFSET PYBIND11_INCLUDE_DIR)
  if(NOT ${wanted})
    message(FATAL_ERROR "${wanted} is missing")
  endif()
endforeach()
# The library is compiled in the build directory, so that a path which shows would differ.
add_compile_options("-ffile-prefix-map=${WORK_DIR}=.")
configure_file(library.cc library.cc COPYONLY)
add_library(tf_model_pool SHARED "${CMAKE_CURRENT_BINARY_DIR}/library.cc")
target_link_options(tf_model_pool PRIVATE -s "LINKER:-soname,libtf_model_pool.so")
add_library(native MODULE native.cc)
target_link_options(native PRIVATE -s)
set_target_properties(native PROPERTIES PREFIX "" OUTPUT_NAME "_native")
add_library(session MODULE session.cc)
target_link_options(session PRIVATE -s)
set_target_properties(session PROPERTIES PREFIX "" OUTPUT_NAME "_session")
add_executable(swap_driver EXCLUDE_FROM_ALL bench/driver.cc)
target_link_options(swap_driver PRIVATE -s)
# Targets that are in no wheel: not built, but their sources must be there.
add_executable(tests EXCLUDE_FROM_ALL bench/driver_test.cc pool/pool_test.cc)
"""

ALLOCATOR_HEADER = """#pragma once
struct AllocatorAttributes {
  bool on_host() const { return value & 0x1; }
  unsigned value = 0;
};
"""

PROCESS_STATE_HEADER = """#pragma once
class ProcessState {
 public:
  void EnableNUMA();
};
"""

PATCH = mail(
    "Let the fake headers know pools",
    diff(
        "tensorflow/core/common_runtime/process_state.h",
        PROCESS_STATE_HEADER,
        PROCESS_STATE_HEADER.replace(
            "  void EnableNUMA();\n", "  void EnableNUMA();\n  int TrimModelPools();\n"
        ),
    ),
    diff(
        "tensorflow/core/kernels/save_restore_tensor.cc",
        "// not in a wheel\n",
        "// not in a wheel\n// and therefore left alone\n",
    ),
    diff(
        "third_party/xla/xla/tsl/framework/allocator.h",
        ALLOCATOR_HEADER,
        ALLOCATOR_HEADER.replace(
            "0x1; }\n", "0x1; }\n  unsigned model_pool() const { return value >> 24; }\n"
        ),
    ),
)


def compile_shared(
    code: str, path: Path, flags: Sequence[str] = (), *, compiler: str = COMPILER
) -> Path:
    """Compiles C++ `code` to the shared library `path`, whose name is its SONAME."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [
        compiler,
        "-x",
        "c++",
        "-",
        "-x",
        "none",
        "-shared",
        "-fPIC",
        "-O1",
        "-fno-lto",
        "-Wl,-z,lazy",
    ]
    command += [f"-Wl,-soname,{path.name}", *flags, "-o", str(path)]
    subprocess.run(command, input=code, text=True, check=True)
    return path


@dataclasses.dataclass(frozen=True)
class FakeRelease:
    """A wheel file and the table entry that makes the builder accept it."""

    path: Path
    release: releases.Release

    @property
    def input(self) -> source.Input:
        return source.by_path(self.path, table=[self.release])


def default_members(
    scratch: Path,
    *,
    link_flags: Sequence[str] = (),
    compiler: str = COMPILER,
    platform: str = PLATFORM,
) -> dict[str, bytes]:
    """The members of a released wheel, without RECORD."""
    framework = compile_shared(
        FRAMEWORK_SOURCE,
        scratch / "libtensorflow_framework.so.2",
        link_flags,
        compiler=compiler,
    )
    # As in the release, the symbols of this library have a version and those of the other do not.
    cc = compile_shared(
        CC_SOURCE,
        scratch / "libtensorflow_cc.so.2",
        [*link_flags, "-Wl,--default-symver"],
        compiler=compiler,
    )
    info = f"tensorflow_cpu-{VERSION}.dist-info"
    tag = f"{PYTHON_TAG}-{PYTHON_TAG}-{platform}"
    return {
        "tensorflow/__init__.py": b"",
        "tensorflow/data.txt": b"unchanged " * 1000,
        releases.FRAMEWORK: framework.read_bytes(),
        releases.CC: cc.read_bytes(),
        "tensorflow/include/xla/tsl/framework/allocator.h": ALLOCATOR_HEADER.encode(),
        "tensorflow/include/tensorflow/compiler/xla/tsl/framework/allocator.h": (
            ALLOCATOR_HEADER.encode()
        ),
        "tensorflow/include/tensorflow/core/common_runtime/process_state.h": (
            PROCESS_STATE_HEADER.encode()
        ),
        f"{info}/METADATA": (
            f"Metadata-Version: 2.4\nName: tensorflow_cpu\nVersion: {VERSION}\n\nText.\n"
        ).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n\n".encode(),
        f"{info}/top_level.txt": b"tensorflow\n",
    }


def write_wheel(
    directory: Path,
    members: Mapping[str, bytes],
    python_tag: str = PYTHON_TAG,
    *,
    platform: str = PLATFORM,
) -> FakeRelease:
    """Zips `members` with a RECORD."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"tensorflow_cpu-{VERSION}-{python_tag}-{python_tag}-{platform}.whl"
    record_name = f"tensorflow_cpu-{VERSION}.dist-info/RECORD"
    record = ""
    with zipfile.ZipFile(path, "w") as archive:
        for name, contents in members.items():
            hashed = base64.urlsafe_b64encode(hashlib.sha256(contents).digest())
            record += f"{name},sha256={hashed.rstrip(b'=').decode()},{len(contents)}\n"
            info = zipfile.ZipInfo(name, DATE)
            info.external_attr = 0o100664 << 16
            archive.writestr(info, contents, zipfile.ZIP_DEFLATED)
        archive.writestr(
            zipfile.ZipInfo(record_name, DATE), record + f"{record_name},,\n", zipfile.ZIP_DEFLATED
        )
    wheel = releases.ReleasedWheel(
        "tensorflow-cpu", VERSION, python_tag, platform, source.sha256_of(path)
    )
    release = releases.Release(
        VERSION, "v9.9", "-DFAKE=1", (wheel,), functions=releases.REPLACED_FUNCTIONS
    )
    return FakeRelease(path, release)


def write_project(root: Path) -> Path:
    """The sources of a project that the builder can build."""
    files = {
        "tf_allocator/CMakeLists.txt": CMAKE,
        "tf_allocator/library.cc": LIBRARY_SOURCE,
        "tf_allocator/native.cc": 'extern "C" int native() { return 1; }\n',
        "tf_allocator/session.cc": 'extern "C" int session() { return 1; }\n',
        "tf_allocator/pool/pool_stats.h": "// statistics\n",
        "tf_allocator/binary/hooks.h": "// hooks\n",
        "tf_allocator/pool/pool_test.cc": "#error not part of a wheel\n",
        "tf_allocator/bench/driver.cc": "int main() { return 0; }\n",
        "tf_allocator/bench/driver_test.cc": "#error not part of a wheel\n",
        "python/tf_model_pool/__init__.py": '"""The package."""\n',
        "python/tf_model_pool/_native.pyi": "def native() -> int: ...\n",
        "python/tf_model_pool/_native.cc": "// not shipped\n",
        "python/tf_model_pool/py.typed": "",
        "python/tf_model_pool/bench/__init__.py": "",
        "python/tf_model_pool_build/__init__.py": '"""Not shipped."""\n',
        "patches/v9.9/series": "# comment\n0001-pools.patch\n",
        "patches/v9.9/0001-pools.patch": PATCH,
        "LICENSE": "The licence.\n",
    }
    shutil.rmtree(root, ignore_errors=True)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
