# SPDX-License-Identifier: Apache-2.0
"""`./build.sh has-pools`: whether binaries have the model pools in them.

Reads the files only, whatever machine they are for, and needs no symbols: a stripped TensorFlow
Serving, with TensorFlow linked into it, is told as well as the wheel's library.
"""

from __future__ import annotations

import argparse
import mmap
from pathlib import Path

from tf_model_pool_build.errors import BuildError

#: The description of the metric `info`, in tf_allocator/device/metrics.cc and nowhere else. The
#: program keeps it to register the metric, so it survives stripping and unused sections.
MARKER = b"Always 1; the labels say what the pool holds or held last."

_ELF = b"\x7fELF"


def has_pools(path: Path) -> bool:
    """Whether an ELF file, as a server or a shared library, has the pools linked into it.

    Raises:
        BuildError: it cannot be read, or is no ELF file.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_ELF)) != _ELF:
                raise BuildError(f"{path}: expected an ELF file, a program or a shared library")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as contents:
                return contents.find(MARKER) >= 0
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="a program with TensorFlow linked into it, such as tensorflow_model_server, or a "
        "shared library; of the patched wheel that is tensorflow/libtf_model_pool.so",
    )


def run(args: argparse.Namespace) -> int:
    """Prints a line for each file. Returns 0 if all have the pools, else 1."""
    found = [(path, has_pools(path)) for path in args.files]
    for path, has in found:
        print(f"{path}: {'has model pools' if has else 'NO model pools'}")
    return 0 if all(has for _, has in found) else 1
