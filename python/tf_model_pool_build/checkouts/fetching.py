# SPDX-License-Identifier: Apache-2.0
"""Release archives: downloaded once, checked, unpacked in one step."""

from __future__ import annotations

import hashlib
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tf_model_pool_build.errors import DownloadError
from tf_model_pool_build.progress import Progress
from tf_model_pool_build.releases.releases import TensorFlowSource
from tf_model_pool_build.workspace import temporary_directory

_BLOCK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60

Open = Callable[[str], IO[bytes]]


def _open_url(url: str) -> IO[bytes]:
    opened: Any = urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS)
    return opened  # type: ignore[no-any-return]


def _download(source: TensorFlowSource, target: Path, progress: Progress, opened: Open) -> None:
    digest = hashlib.sha256()
    try:
        with opened(source.url) as remote, target.open("wb") as file:
            done = 0
            while block := remote.read(_BLOCK_BYTES):
                digest.update(block)
                file.write(block)
                done += len(block)
                # GitHub does not say how large the archive will be.
                progress.update("MiB received, of about", done >> 20, 200)
    except (OSError, urllib.error.URLError) as error:
        raise DownloadError(
            f"cannot download {source.url}: {error}; download and unpack it by other means, and "
            "pass the directory"
        ) from error
    if digest.hexdigest() != source.sha256:
        raise DownloadError(
            f"{source.url} has sha256 {digest.hexdigest()}; expected {source.sha256}"
        )


def fetch(
    source: TensorFlowSource, parent: Path, progress: Progress, opened: Open = _open_url
) -> Path:
    """The unpacked sources of a release below `parent`; downloads them if they are not there.

    Args:
        source: the release.
        parent: directory that keeps them; it is made.
        progress: is told of download and unpacking.
        opened: opens a URL for reading.

    Raises:
        DownloadError: the archive cannot be had, or is another than expected. Nothing is kept.
    """
    target = parent / source.directory
    if target.is_dir():
        return target
    with temporary_directory(parent) as directory:
        archive = directory / "archive.tar.gz"
        with progress.stage(f"download {source.url}"):
            _download(source, archive, progress, opened)
        with progress.stage(f"unpack it into {target}"):
            try:
                with tarfile.open(archive) as tar:
                    if hasattr(tarfile, "data_filter"):
                        tar.extractall(directory, filter="data")
                    else:
                        tar.extractall(directory)
            except (tarfile.TarError, EOFError) as error:
                raise DownloadError(f"{source.url} is not a readable archive: {error}") from error
            unpacked = directory / source.directory
            if not unpacked.is_dir():
                raise DownloadError(f"{source.url} has no directory {source.directory}")
            unpacked.rename(target)
    return target
