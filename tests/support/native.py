# SPDX-License-Identifier: Apache-2.0
"""Builds and runs `swap_probe`, the native test program."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.children import run_to_end
from support.modes import child_environment

SOURCE = Path(__file__).resolve().parents[1] / "integration" / "native" / "swap_probe.cc"
_FLAGS = (
    "-std=c++17",
    "-O1",
    "-pthread",
    "-D_GLIBCXX_USE_CXX11_ABI=1",
    "-DEIGEN_MAX_ALIGN_BYTES=64",
    "-Wall",
)
# Without --no-as-needed the linker drops libtensorflow_cc, and with it the session factories.
_LIBRARIES = (
    "-Wl,--no-as-needed",
    "-l:libtensorflow_cc.so.2",
    "-l:libtensorflow_framework.so.2",
    "-l:libtf_model_pool.so",
)


@dataclasses.dataclass(frozen=True)
class Report:
    """The lines that the program printed."""

    lines: Sequence[Mapping[str, Any]]

    def of(self, event: str, **fields: object) -> list[Mapping[str, Any]]:
        """The lines of one kind whose fields have the given values."""
        return [
            line
            for line in self.lines
            if line["event"] == event and all(line[name] == v for name, v in fields.items())
        ]

    def state(self, when: str) -> Mapping[str, Any]:
        """Process and pools at one moment. Raises ValueError if it was not reported once."""
        (line,) = self.of("state", when=when)
        return line


def build_probe(tensorflow: Path, cache: Path) -> Path:
    """Compiles the program unless `cache` has it; returns its path.

    Raises RuntimeError with the compiler's output. The key is what the program is made of:
    source, flags, compiler, and the libraries and headers (which the wheel's record sums up).
    """
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        raise RuntimeError("no C++ compiler: install one with `apt-get install g++`, or set CXX")
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, check=True, text=True
    ).stdout
    digest = hashlib.sha256()
    for text in (version, str(tensorflow), *_FLAGS, *_LIBRARIES):
        digest.update(text.encode() + b"\0")
    digest.update(SOURCE.read_bytes())
    for record in sorted(tensorflow.parent.glob("tensorflow*.dist-info/RECORD")):
        digest.update(record.read_bytes())
    program = cache / digest.hexdigest()[:16] / "swap_probe"
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as directory:
        made = Path(directory) / program.name
        run_to_end(
            [
                compiler,
                *_FLAGS,
                f"-isystem{tensorflow / 'include'}",
                str(SOURCE),
                f"-o{made}",
                f"-L{tensorflow}",
                *_LIBRARIES,
                f"-Wl,-rpath,{tensorflow}",
            ],
            dict(os.environ),
        )
        made.rename(program)
    return program


def run_probe(
    program: Path,
    mode: str,
    *arguments: object,
    through: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
) -> Report:
    """Runs the program to its end. Raises RuntimeError if it fails.

    `through` is a command that starts it; `extra` goes into its environment.
    """
    output = run_to_end(
        [*through, str(program), *map(str, arguments)], child_environment(mode, extra)
    )
    return Report([json.loads(line) for line in output.splitlines()])
