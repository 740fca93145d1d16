# SPDX-License-Identifier: Apache-2.0
"""Builds and runs the native test programs."""

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

_SOURCES = Path(__file__).resolve().parents[1] / "integration" / "native"
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
)
#: Program -> what else it is linked with. `harm_probe` runs with the released TensorFlow too.
_PROGRAMS: Mapping[str, Sequence[str]] = {
    "swap_probe": ("-l:libtf_model_pool.so",),
    "harm_probe": ("-Wl,--allow-shlib-undefined",),
}


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


def build_probe(name: str, tensorflow: Path, cache: Path) -> Path:
    """Compiles a program of `_PROGRAMS` unless `cache` has it; returns its path.

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
    source = _SOURCES / f"{name}.cc"
    libraries = (*_LIBRARIES, *_PROGRAMS[name])
    for text in (version, str(tensorflow), *_FLAGS, *libraries):
        digest.update(text.encode() + b"\0")
    digest.update(source.read_bytes())
    for record in sorted(tensorflow.parent.glob("tensorflow*.dist-info/RECORD")):
        digest.update(record.read_bytes())
    program = cache / digest.hexdigest()[:16] / name
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
                str(source),
                f"-o{made}",
                f"-L{tensorflow}",
                *libraries,
                # LD_LIBRARY_PATH goes before it.
                f"-Wl,--enable-new-dtags,-rpath,{tensorflow}",
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
