# SPDX-License-Identifier: Apache-2.0
"""A binary with the pools is told from one without, whatever was stripped from it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tf_model_pool_build import commands
from tf_model_pool_build.checkouts import has_pools

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def library() -> Path:
    """Our library of the installed wheel."""
    spec = importlib.util.find_spec("tensorflow")
    assert spec is not None, "no TensorFlow: run `./build.sh test`"
    assert spec.origin is not None
    return Path(spec.origin).parent / "libtf_model_pool.so"


def test_the_marker_is_at_one_place_of_the_sources() -> None:
    # In what every build compiles, and nowhere in the package that ships.
    sources = [*ROOT.glob("tf_allocator/**/*"), *ROOT.glob("python/tf_model_pool/**/*")]
    holders = [
        path.relative_to(ROOT).as_posix()
        for path in sources
        if path.is_file() and has_pools.MARKER in path.read_bytes()
    ]
    assert holders == ["tf_allocator/device/metrics.cc"]


def test_a_stripped_library_still_has_them(library: Path, tmp_path: Path) -> None:
    stripped = tmp_path / "library.so"
    shutil.copy(library, stripped)
    subprocess.run(["strip", str(stripped)], check=True)
    assert has_pools.has_pools(library)
    assert has_pools.has_pools(stripped)


def test_each_file_gets_a_line_and_one_without_fails(
    library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["has-pools", str(library)]) == 0
    assert capsys.readouterr().out == f"{library}: has model pools\n"
    without = Path(sys.executable).resolve()
    assert commands.main(["has-pools", str(library), str(without)]) == 1
    assert capsys.readouterr().out.splitlines()[1] == f"{without}: NO model pools"


@pytest.mark.parametrize(
    ("contents", "words"),
    [(None, "No such file"), (b"", "expected an ELF file"), (has_pools.MARKER, "an ELF file")],
)
def test_what_is_no_binary_is_an_error(
    contents: bytes | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    if contents is not None:
        path.write_bytes(contents)
    assert commands.main(["has-pools", str(path)]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}: ")
    assert words in message
