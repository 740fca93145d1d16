# SPDX-License-Identifier: Apache-2.0
"""`python -m tf_model_pool demo`: where the memory of versions lies, and what an update costs.

Makes small ranking models in a directory. First it loads and unloads versions as a server does
and checks after each step what the pools report (`memory`); then a `HotModel` serves another
process through updates, and the latencies are printed (`update`). It is the shortest proof that
an installation works; the measurements are made by `bench`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tf_model_pool import api
from tf_model_pool.cli import sigterm_interrupts
from tf_model_pool.demo import memory, model, update
from tf_model_pool.demo.checks import Checks
from tf_model_pool.errors import ModelPoolError, NotActiveError

_PREFIX = "tf_model_pool_demo_"
#: Beside the weights: graphs, and what a file system needs.
_SPARE_BYTES = 16 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `demo`."""
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help=f"keep the SavedModels as DIR/{memory.MODEL} (default: a temporary directory; "
        "removed at the end)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the demonstration. Returns 0 if every check passed, else 1.

    Raises:
        NotActiveError: pools are not active, for the reason in the text.
        ModelPoolError: the SavedModels cannot be written, or an update did not happen.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_interrupts())
        if args.directory is not None:
            directory = stack.enter_context(_kept(args.directory))
        # TensorFlow's informational lines hide the output; its warnings and errors stay.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
        reason = api.inactive_reason()
        if reason is not None:
            raise NotActiveError(api.PREFIX + reason)
        if args.directory is None:
            directory = stack.enter_context(_scratch(None))
        _check_space(directory)
        checks = Checks()
        memory.run(directory, checks)
        with _scratch(directory) as scratch:
            update.run(scratch, checks)
    print("\nFAIL: see the lines above." if checks.failed else "\nPASS")
    return 1 if checks.failed else 0


@contextlib.contextmanager
def _kept(directory: Path) -> Iterator[Path]:
    """Makes it if it is missing. What was made in it goes away again if the block raises."""
    made = [each for each in (directory, *directory.parents) if not each.exists()]
    models = directory / memory.MODEL
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _scratch(directory):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        raise ModelPoolError(f"--directory {directory}: it is no directory") from error
    except OSError as error:
        raise ModelPoolError(f"--directory {directory}: {error.strerror}") from error
    if models.exists():
        raise ModelPoolError(
            f"--directory {directory}: it holds a {memory.MODEL} already; remove that, or name "
            "another directory"
        )
    try:
        yield directory.resolve()
    except BaseException:
        shutil.rmtree(models, ignore_errors=True)
        for each in made:
            with contextlib.suppress(OSError):
                each.rmdir()
        raise


@contextlib.contextmanager
def _scratch(inside: Path | None) -> Iterator[Path]:
    """A temporary directory, in a place of the system's if `inside` is None."""
    with contextlib.ExitStack() as stack:
        try:
            name = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=f".{_PREFIX}" if inside else _PREFIX, dir=inside)
            )
        except OSError as error:
            if inside is not None:
                raise
            raise ModelPoolError(
                f"no temporary directory: {error.strerror}; name one with --directory"
            ) from error
        yield Path(name).resolve()


def _check_space(directory: Path) -> None:
    needed = (
        len(memory.VERSIONS) * model.weight_bytes(memory.SIZE)
        + len(update.CONTENTS) * model.weight_bytes(update.SIZE)
        + _SPARE_BYTES
    )
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise ModelPoolError(
            f"{directory} has {free >> 20} MiB free, and the demo needs {needed >> 20} MiB; name "
            "another place with --directory"
        )
