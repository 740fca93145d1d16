# SPDX-License-Identifier: Apache-2.0
"""`python -m tf_model_pool run -- CMD`: starts a program on an untouched TensorFlow, with pools.

The program gets `libtf_model_pool_preload.so` through `LD_PRELOAD`; that library loads
`libtf_model_pool.so` when TensorFlow first calls a function that it stands in front of. This
process becomes the program (`execve`), so signals, exit status and standard streams are the
program's own.

A preloaded library that the dynamic loader cannot use is skipped with a warning or without a word
(see ld.so(8), `LD_PRELOAD`). So what can be known beforehand is checked here.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import stat
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tf_model_pool import api
from tf_model_pool.errors import NotActiveError, RunError

#: As env(1) and nohup(1): the program's own status passes through, these say it never ran.
EXIT_REFUSED = 125
EXIT_CANNOT_EXECUTE = 126
EXIT_NOT_FOUND = 127

PRELOAD_LIBRARY = "libtf_model_pool_preload.so"
_VARIABLE = "LD_PRELOAD"
_USAGE = "python -m tf_model_pool run -- CMD [ARGUMENT...]"
#: platform.machine() -> what programs for it have: e_machine, and the loader of the GNU C library.
_PROGRAMS = {
    "x86_64": (62, "ld-linux-x86-64.so.2"),
    "aarch64": (183, "ld-linux-aarch64.so.1"),
}
_PT_INTERP = 3
#: Linux follows four (binfmt_script).
_MAX_INTERPRETERS = 4
_SHEBANG_BYTES = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.usage = _USAGE
    parser.add_argument(
        "program",
        nargs=argparse.REMAINDER,
        metavar="-- CMD [ARGUMENT...]",
        help="a program, or a Python script; looked for in PATH as a shell does",
    )


def run(args: argparse.Namespace) -> int:
    """Becomes the program. Returns only where it does not start: 125, 126 or 127."""
    command = list(args.program)
    if command[:1] == ["--"]:
        del command[0]
    try:
        command, environment = prepare(command, os.environ)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(command[0], command, environment)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except NotActiveError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
        return EXIT_CANNOT_EXECUTE


def prepare(
    command: Sequence[str], environment: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """The command with its program's path, and the environment to start it in.

    Args:
        command: the program, by name or path, and its arguments. A `.py` file that is not
            executable is run by this Python.
        environment: the caller's. An `LD_PRELOAD` in it is kept, and ours comes after it.

    Raises:
        RunError: there is no such program, or preloading cannot work; with the exit status.
        NotActiveError: TensorFlow or the library is missing.
    """
    if not command:
        raise RunError(f"no program is named: {_USAGE}", EXIT_REFUSED)
    started = [*_program(command[0], environment), *command[1:]]
    tensorflow = api.find_tensorflow()
    if tensorflow is not None and tensorflow.patched:
        print(
            f"note: {tensorflow} is patched, so nothing is preloaded", file=sys.stderr, flush=True
        )
        return started, dict(environment)
    library = preload_library(tensorflow)
    check_preloadable(Path(started[0]))
    return started, {**environment, _VARIABLE: with_library(environment.get(_VARIABLE), library)}


def preload_library(tensorflow: api.TensorFlowLocation | None) -> Path:
    """The library to preload, made for the TensorFlow at hand.

    Raises:
        NotActiveError: TensorFlow or the library is missing.
        RunError: they do not belong together.
    """
    library = api.package_directory() / PRELOAD_LIBRARY
    if tensorflow is None:
        raise NotActiveError(f"TensorFlow is not installed for {sys.executable}")
    if not library.is_file():
        raise NotActiveError(
            f"{library} is missing: this tf_model_pool is no distribution for an untouched "
            f"TensorFlow. {api.HOW_TO_GET_LIBRARY}"
        )
    refused = api.refusal(tensorflow)
    if refused is not None:
        raise RunError(refused, EXIT_REFUSED)
    info = api.build_info()
    for name, expected in dict(info.get("tensorflow_libraries", {})).items():
        found = tensorflow.recorded_hash(name)
        if found != expected:
            raise RunError(
                f"{name} of {tensorflow} is another build than the library was made for: expected "
                f"{expected}, found {found or 'no record of it'}. Made from: "
                f"{info.get('base_wheel')}. {api.HOW_TO_GET_LIBRARY}",
                EXIT_REFUSED,
            )
    return library


def with_library(value: str | None, library: Path) -> str:
    """`LD_PRELOAD` with ours at the end, once.

    Raises:
        RunError: the path holds what separates paths there, and cannot be written.
    """
    text = str(library)
    if any(character in text for character in " :\t\n"):
        raise RunError(
            f"{text} cannot be preloaded: LD_PRELOAD separates paths by spaces and colons, and "
            "knows no quotes. Install the package in a directory without them",
            EXIT_REFUSED,
        )
    present = (value or "").replace(":", " ").split()
    return ":".join([*(entry for entry in present if entry != text), text])


def _program(name: str, environment: Mapping[str, str]) -> list[str]:
    if "/" not in name:
        found = shutil.which(name, path=environment.get("PATH"))
        if found is not None:
            return [found]
    path = Path(name)
    if not path.is_file():
        where = "" if "/" in name else " in PATH or here"
        raise RunError(f"there is no program {name}{where}", EXIT_NOT_FOUND)
    if path.suffix == ".py" and not os.access(path, os.X_OK):
        return [sys.executable, name]
    if "/" not in name:
        raise RunError(f"{name} is not in PATH; for the one here, say ./{name}", EXIT_NOT_FOUND)
    if not os.access(path, os.X_OK):
        raise RunError(f"{name} is not executable", EXIT_CANNOT_EXECUTE)
    return [name]


def check_preloadable(program: Path) -> None:
    """Checks that the dynamic loader will preload a library into a program.

    Raises:
        RunError: it is set-user-ID or set-group-ID, statically linked, for another C library
            or another machine, or no program at all.
    """
    path = program
    for _ in range(_MAX_INTERPRETERS + 1):
        try:
            with path.open("rb") as file:
                head = file.read(_SHEBANG_BYTES)
                if not head.startswith(b"#!"):
                    _check_elf(path, program, head, file.fileno())
                    return
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}", EXIT_CANNOT_EXECUTE) from error
        words = head[2:].split(b"\n", 1)[0].split()
        if not words:
            break
        path = Path(os.fsdecode(words[0]))
    raise RunError(f"{program} names no interpreter that can be found", EXIT_CANNOT_EXECUTE)


def _check_elf(path: Path, program: Path, head: bytes, descriptor: int) -> None:
    called = str(program) if path == program else f"{path}, which runs {program},"

    def refuse(why: str) -> RunError:
        return RunError(f"{called} {why}", EXIT_REFUSED)

    if not head.startswith(b"\x7fELF") or len(head) < 64:
        raise refuse("is neither an ELF program nor a script that names its interpreter (#!)")
    # The ELF header: class, byte order, then e_machine, e_phoff, e_phentsize, e_phnum.
    machine = struct.unpack_from("<H", head, 18)[0]
    if platform.machine() not in _PROGRAMS:
        raise refuse(f"runs on {platform.machine()}; the library is for {' or '.join(_PROGRAMS)}")
    expected, glibc_loader = _PROGRAMS[platform.machine()]
    if head[4:6] != b"\x02\x01" or machine != expected:
        raise refuse(f"is not for {platform.machine()}")
    mode = os.fstat(descriptor).st_mode
    if mode & (stat.S_ISUID | stat.S_ISGID) and path == program:
        raise refuse("is set-user-ID or set-group-ID: the loader does not preload into it")
    offset = struct.unpack_from("<Q", head, 32)[0]
    size, count = struct.unpack_from("<HH", head, 54)
    for index in range(count):
        entry = os.pread(descriptor, 56, offset + index * size)
        if len(entry) < 56:
            raise refuse("is damaged: its program headers are cut short")
        kind, _, at, _, _, length = struct.unpack_from("<IIQQQQ", entry)
        if kind == _PT_INTERP:
            loader = os.fsdecode(os.pread(descriptor, length, at).rstrip(b"\0"))
            if Path(loader).name != glibc_loader:
                raise refuse(
                    f"is started by {loader}; the library needs the GNU C library ({glibc_loader})"
                )
            return
    raise refuse("is statically linked: nothing can be preloaded into it")
