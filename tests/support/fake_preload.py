# SPDX-License-Identifier: Apache-2.0
"""The library to preload in the stand-in of `fake_release`, from the real `preload.cc`."""

from __future__ import annotations

import shutil
from pathlib import Path

from support import fake_release

ROOT = Path(__file__).resolve().parents[2]
PRELOAD = "libtf_model_pool_preload.so"

CMAKE = """
if(TF_MODEL_POOL_PRELOAD)
  add_library(tf_model_pool_preload SHARED binary/preload.cc)
  target_include_directories(tf_model_pool_preload PRIVATE ..)
  foreach(name TENSORFLOW_VERSION GET_ALLOCATOR_SYMBOL MAKE_TENSOR_SYMBOL RESTORE_V2_SYMBOL
          RESTORE_V1_SYMBOL RESTORE_SESSION_SYMBOL LOAD_BUNDLE_SYMBOL LOAD_LITE_SYMBOL
          LOAD_META_GRAPH_SYMBOL)
    target_compile_definitions(tf_model_pool_preload PRIVATE
      "TF_MODEL_POOL_${name}=\\"${TF_MODEL_POOL_${name}}\\"")
  endforeach()
  target_compile_options(tf_model_pool_preload PRIVATE -fno-exceptions -fno-rtti)
  target_link_options(tf_model_pool_preload PRIVATE %s -s)
  target_link_libraries(tf_model_pool_preload PRIVATE gcc c)
  return()
endif()
"""
ALONE = "-nodefaultlibs"
TF_VERSION = 'extern "C" const char* TF_Version() { return "%s"; }\n'

#: What the stand-in's functions answer: TensorFlow's own, and ours.
ORIGINAL = {"device": 1000 * 6 + 7, "restore": 1000 * (3 * 2 + 1) + (5 * 2 + 1), "load": 7 * 4 + 1}
OURS = {"device": 1000 * 60 + 70, "restore": 1000 * (100 + 2) + (200 + 2), "load": 300 + 4}


def write_project(root: Path, link_options: str = ALONE) -> Path:
    """The stand-in's sources with the real sources of the library to preload."""
    project = fake_release.write_project(root)
    cmake = project / "tf_allocator" / "CMakeLists.txt"
    head, separator, tail = cmake.read_text(encoding="utf-8").partition("foreach(wanted")
    cmake.write_text(head + CMAKE % link_options + separator + tail, encoding="utf-8")
    for name in ("hooks.def", "preload.cc", "preload.h"):
        shutil.copy(ROOT / "tf_allocator" / "binary" / name, project / "tf_allocator" / "binary")
    (project / "python" / "tf_model_pool" / "run.py").write_text("", encoding="utf-8")
    return project


def make_tensorflow(
    directory: Path,
    version: str,
    code: str = TF_VERSION,
    *,
    compiler: str = fake_release.COMPILER,
) -> Path:
    """Libraries as TensorFlow's, which say that they are of `version`."""
    fake_release.compile_shared(
        fake_release.FRAMEWORK_SOURCE,
        directory / "libtensorflow_framework.so.2",
        compiler=compiler,
    )
    fake_release.compile_shared(
        fake_release.CC_SOURCE + code % version,
        directory / "libtensorflow_cc.so.2",
        ["-Wl,--default-symver"],
        compiler=compiler,
    )
    return directory
