# SPDX-License-Identifier: Apache-2.0
"""Prints the path of the released wheel that a patched one was made from.

    python -m tf_model_pool_build.wheel.base dist/tensorflow_cpu-2.21.0+modelpool.0.1.0-*.whl

It is downloaded unless .build/cache has it; its sha256 is checked either way.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tf_model_pool.cli import exit_status_of
from tf_model_pool_build import project
from tf_model_pool_build.errors import CorruptWheelError, UnsupportedWheelError
from tf_model_pool_build.releases import releases
from tf_model_pool_build.wheel import digest, source
from tf_model_pool_build.workspace import signals_as_errors


def released_of(
    patched: Path,
    cache: Path,
    *,
    table: Iterable[releases.Release] = releases.RELEASES,
    python: str = sys.executable,
) -> Path:
    """The released wheel, in `cache`.

    Args:
        patched: a wheel that the builder made.
        cache: where downloads are kept.
        table: the known releases.
        python: interpreter whose pip downloads.

    Raises:
        CorruptWheelError: `patched` does not say what it was made from.
        UnsupportedWheelError: it was made from a wheel that is no release, and is not in `cache`.
        DownloadError, ChecksumError: as `source.fetch`.
    """
    try:
        with zipfile.ZipFile(patched) as archive:
            info = json.loads(archive.read(digest.BUILD_INFO))
        name, sha256 = str(info["base_wheel"]), str(info["base_wheel_sha256"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CorruptWheelError(f"{patched} is not a readable patched wheel: {error!r}") from error
    for release in table:
        for wheel in release.wheels:
            if (wheel.filename, wheel.sha256) == (name, sha256):
                return source.fetch(source.of_table(release, wheel), cache, python)
    cached = cache / name
    if cached.is_file() and source.sha256_of(cached) == sha256:
        return cached
    raise UnsupportedWheelError(
        f"{patched.name} was made from {name} with sha256 {sha256}, which is no released wheel; "
        f"put that file into {cache}"
    )


def main(arguments: Sequence[str], root: Path | None = None) -> int:
    """Prints the path, and returns 0. Raises `BuildError`."""
    parser = argparse.ArgumentParser(
        prog="python -m tf_model_pool_build.wheel.base",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("wheel", type=Path, help="the patched wheel")
    wheel = parser.parse_args(arguments).wheel
    with signals_as_errors():
        print(released_of(wheel, (root or project.project_root()) / ".build" / "cache"))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status_of(lambda: main(sys.argv[1:])))
