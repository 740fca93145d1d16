# SPDX-License-Identifier: Apache-2.0
"""A place to work that is gone afterwards, however the build ends."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from tf_model_pool_build.errors import BuildInterruptedError, DiskSpaceError

_MIB = 1 << 20
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stop(signal_number: int, frame: FrameType | None) -> None:
    # A second signal must not interrupt the cleanup that the first one started.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise BuildInterruptedError(signal_number)


@contextlib.contextmanager
def signals_as_errors() -> Iterator[None]:
    """Turns SIGINT, SIGTERM and SIGHUP into `BuildInterruptedError`, so that cleanup runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """A new directory in `parent`, removed at the end with all that it holds.

    Its name has the process, so that ci/lock.sh knows those that a killed one left.
    """
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"work-{os.getpid()}-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def full_disk_as_error() -> Iterator[None]:
    """Turns "no space left on device" into `DiskSpaceError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskSpaceError(
            f"no space left while writing {error.filename or 'a file'}: {error.strerror}"
        ) from error


def check_disk_space(needs: Mapping[Path, int]) -> None:
    """Checks that directories have room.

    Args:
        needs: directory -> bytes; directories on one file system are added up.

    Raises:
        DiskSpaceError: with what is needed and what is free.
    """
    by_device: dict[int, tuple[Path, int]] = {}
    for directory, size in needs.items():
        existing = next(p for p in (directory, *directory.parents) if p.exists())
        device = existing.stat().st_dev
        path, before = by_device.get(device, (existing, 0))
        by_device[device] = (path, before + size)
    for path, size in by_device.values():
        free = shutil.disk_usage(path).free
        if free < size:
            raise DiskSpaceError(
                f"the build needs {-(-size // _MIB)} MiB on the file system of {path}, "
                f"which has {free // _MIB} MiB free"
            )
