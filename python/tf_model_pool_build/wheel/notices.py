# SPDX-License-Identifier: Apache-2.0
"""What a distribution says of the work of others in it.

Apache License 2.0, section 4(b): changed files carry prominent notices that they were changed. A
header has one itself (`headers.py`); binaries and metadata are listed in a file beside them.
pybind11's licence asks that its text comes with code made from it.
"""

from __future__ import annotations

from collections.abc import Iterable

#: For METADATA, which people see on a package index.
CHANGED = (
    "**Changed by the tf-model-pool project; not an official release of TensorFlow.** What was "
    "changed: licenses/NOTICE.tf-model-pool in this distribution's metadata."
)
PYBIND11 = "LICENSE.pybind11"
_METADATA = ("METADATA", "WHEEL", "entry_points.txt", "top_level.txt", "RECORD")


def _lines(names: Iterable[str], what: str) -> str:
    return "".join(f"  {name}  {what}\n" for name in names)


def _pybind11() -> str:
    return (
        "\nThe modules _native and _session in tf_model_pool/ contain code of pybind11, which is "
        f"under\nthe licence in {PYBIND11}.\n"
    )


def of_patched(
    version: str, base: str, libraries: Iterable[str], headers: Iterable[str], *, native: bool
) -> str:
    """NOTICE of a patched wheel.

    Args:
        version: of TensorFlow.
        base: file name of the released wheel.
        libraries: members that were edited.
        headers: members that were patched.
        native: the native modules are in it.
    """
    return (
        "This is TensorFlow with changes of the tf-model-pool project. It is not an official "
        f"release\nof TensorFlow {version}, and its authors have no part in it.\n\n"
        f"It was made from {base},\nwhich is under the Apache License, Version 2.0. In that,\n\n"
        "these files were changed:\n\n"
        + _lines(libraries, "some functions are taken from libtf_model_pool.so")
        + _lines(headers, "declarations were added")
        + _lines(_METADATA, "names the changed wheel and what was added")
        + "\nthese were added, under the same licence (LICENSE.tf-model-pool):\n\n"
        + _lines(["tensorflow/libtf_model_pool.so"], "the model pools")
        + _lines(["tensorflow/include/tf_allocator/"], "their headers")
        + _lines(["tf_model_pool/"], "their Python package")
        + (_pybind11() if native else "")
    )


def of_library(version: str, headers: Iterable[str], *, native: bool) -> str:
    """NOTICE of the distribution for an untouched TensorFlow; arguments as `of_patched`."""
    return (
        "This comes from the tf-model-pool project. TensorFlow's authors have no part in it.\n\n"
        f"These headers are those of TensorFlow {version}, under the Apache License, Version 2.0, "
        "with\ndeclarations added:\n\n"
        + _lines(headers, "declarations were added")
        + (_pybind11() if native else "")
    )
