# SPDX-License-Identifier: Apache-2.0
"""The distribution `tf-model-pool`: the library for an untouched TensorFlow, without TensorFlow.

It is taken out of the patched wheel, so that the code is the same to the byte, and gets the one
library more that `LD_PRELOAD` needs (`tf_allocator/binary/preload.h`). Installed beside the
TensorFlow that the patched wheel was made from, it replaces nothing of it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from tf_model_pool import files
from tf_model_pool._version import __version__
from tf_model_pool_build.errors import BuildError
from tf_model_pool_build.progress import Progress
from tf_model_pool_build.releases.releases import INCLUDE
from tf_model_pool_build.series import listing
from tf_model_pool_build.wheel import (
    archive,
    builder,
    compiling,
    digest,
    elf,
    headers,
    metadata,
    notices,
    source,
)
from tf_model_pool_build.wheel import toolchain as tools
from tf_model_pool_build.wheel.metadata import RecordEntry
from tf_model_pool_build.wheel.platform_tag import platform_tag
from tf_model_pool_build.workspace import (
    full_disk_as_error,
    signals_as_errors,
    temporary_directory,
)

PRELOAD_NAME = compiling.PRELOAD_NAME
PACKAGE = "tf_model_pool"
#: Where headers lie in this distribution. Those of TensorFlow's that the patches change come first
#: on a compiler's path, before TensorFlow's own.
HEADERS = f"{PACKAGE}/include/"
#: build_info.json names the patched wheel's digest so; here it would say that this is one.
_DIGEST = "source_digest"


def build(request: builder.Request, progress: Progress) -> Path:
    """Makes the distribution, and the patched wheel first unless `request.output` has it.

    Returns:
        The path of the distribution, below `request.output`.

    Raises:
        BuildError: one of its subclasses; nothing is left behind.
    """
    patched = builder.build(request, progress)
    with signals_as_errors(), full_disk_as_error():
        toolchain = tools.find_toolchain(target=request.wheel.architecture)
        state = request.project / ".build"
        released = source.fetch(request.wheel, state / "cache")
        with (
            progress.stage("take the library out of the patched wheel"),
            temporary_directory(state) as work,
            zipfile.ZipFile(patched) as archive_in,
        ):
            info = json.loads(archive_in.read(digest.BUILD_INFO))
            project = digest.snapshot(request.project, work / "project")
            preload = _compile(project, work, toolchain, info, request.wheel)
            series = listing.read(project / "patches", request.wheel.release.patches)
            changes = headers.header_changes(series.changes)
            changed = {name for change in changes for name in change.files}
            members = _members(archive_in, changed)
            objects = _objects(archive_in, work) | {preload.name: preload}
            tag = _tag(patched, objects.values())
            members[f"{PACKAGE}/{PRELOAD_NAME}"] = preload.read_bytes()
            members[digest.BUILD_INFO] = _build_info(info, released, request.wheel, tag)
            return _write(request, members, archive_in, tag)


def _compile(
    project: Path,
    work: Path,
    toolchain: tools.Toolchain,
    info: Mapping[str, Any],
    wheel: source.Input,
) -> Path:
    symbols = {f["name"]: f["symbol"] for f in info["replaced_functions"]}
    names = {function.hook: function.name for function in wheel.functions}
    if missing := sorted(set(names.values()) - symbols.keys()):
        raise BuildError(f"the patched wheel replaces no {', '.join(missing)}")
    definitions = {f"TF_MODEL_POOL_{hook}_SYMBOL": symbols[name] for hook, name in names.items()}
    definitions["TF_MODEL_POOL_TENSORFLOW_VERSION"] = wheel.release.own_version
    library = compiling.compile_preload(project, work, toolchain, definitions)
    check_preload(library)
    return library


def _members(archive_in: zipfile.ZipFile, changed: Collection[str]) -> dict[str, bytes]:
    """What the distribution takes from the patched wheel: its name -> contents.

    `changed` are the headers of TensorFlow's that the patches change.
    """
    record_name = f"{metadata.dist_info_of(archive_in.namelist())}/RECORD"
    members = {}
    for name in metadata.read_record(archive_in.read(record_name).decode("utf-8")):
        if name == source.LIBRARY:
            members[f"{PACKAGE}/{compiling.LIBRARY_NAME}"] = archive_in.read(name)
        elif name.startswith(f"{PACKAGE}/"):
            members[name] = archive_in.read(name)
        elif name.startswith(INCLUDE):
            header = name.removeprefix(INCLUDE)
            if header in changed or header.startswith("tf_allocator/"):
                members[HEADERS + header] = archive_in.read(name)
    return members


def _objects(archive_in: zipfile.ZipFile, work: Path) -> dict[str, Path]:
    """The compiled members, unpacked."""
    directory = work / "objects"
    directory.mkdir()
    objects = {}
    for name in archive_in.namelist():
        if name == source.LIBRARY or (
            name.startswith(f"{PACKAGE}/") and (name.endswith(".so") or "/bin/" in name)
        ):
            path = directory / Path(name).name
            path.write_bytes(archive_in.read(name))
            objects[path.name] = path
    return objects


def _tag(patched: Path, objects: Iterable[Path]) -> str:
    python, abi, platform = patched.stem.split("-")[-3:]
    brought = {compiling.LIBRARY_NAME, "libtensorflow_cc.so.2", "libtensorflow_framework.so.2"}
    return f"{python}-{abi}-{platform_tag(platform.partition('.')[0], objects, brought)}"


def _build_info(info: Mapping[str, Any], released: Path, wheel: source.Input, tag: str) -> bytes:
    with zipfile.ZipFile(released) as base:
        record_name = f"{metadata.dist_info_of(base.namelist())}/RECORD"
        record = metadata.read_record(base.read(record_name).decode("utf-8"))
    contents = {key: value for key, value in info.items() if key != _DIGEST}
    contents["distribution"] = "library"
    contents["platform_tag"] = tag.rpartition("-")[2]
    contents["patched_wheel_digest"] = info[_DIGEST]
    # What `run` compares an installed TensorFlow with.
    contents["tensorflow_libraries"] = {
        library: record[library].hash
        for library in sorted({function.library for function in wheel.functions})
    }
    return (json.dumps(contents, indent=2, sort_keys=True) + "\n").encode()


def _write(
    request: builder.Request, members: dict[str, bytes], archive_in: zipfile.ZipFile, tag: str
) -> Path:
    release = request.wheel.release
    version = f"{__version__}+tf{release.version}"
    dist_info = f"{PACKAGE}-{version}.dist-info"
    python_version = request.wheel.python_tag.removeprefix("cp3")
    licenses = _licenses(request, members, archive_in)
    native = notices.PYBIND11 in licenses
    members = {name: members[name] for name in sorted(members)}
    members[f"{dist_info}/METADATA"] = (
        "Metadata-Version: 2.4\n"
        "Name: tf-model-pool\n"
        f"Version: {version}\n"
        "Summary: Memory pools per model version, for an untouched TensorFlow on CPU\n"
        f"License-Expression: Apache-2.0{' AND BSD-3-Clause' if native else ''}\n"
        + "".join(f"License-File: {name}\n" for name in licenses)
        + f"Requires-Python: ==3.{python_version}.*\n"
        f"Requires-Dist: {request.wheel.package}=={release.version}\n"
    ).encode()
    members[f"{dist_info}/WHEEL"] = (
        "Wheel-Version: 1.0\n"
        f"Generator: tf_model_pool ({__version__})\n"
        "Root-Is-Purelib: false\n"
        f"Tag: {tag}\n"
    ).encode()
    members[f"{dist_info}/entry_points.txt"] = metadata.with_console_command(None).encode()
    members |= {f"{dist_info}/licenses/{name}": data for name, data in licenses.items()}
    record = {
        name: RecordEntry(archive.record_hash(hashlib.sha256(contents).digest()), len(contents))
        for name, contents in members.items()
    }
    record_name = f"{dist_info}/RECORD"
    date = max(member.date_time for member in archive_in.infolist())
    final = request.output / f"{PACKAGE}-{version}-{tag}.whl"
    with files.replacing(final) as partial:
        with archive.WheelWriter(partial, date) as writer:
            for name, contents in members.items():
                writer.add(name, contents, executable="/bin/" in name)
            writer.add(record_name, metadata.write_record(record, record_name).encode())
        metadata.verify(partial)
        _check(partial)
    return final


def _licenses(
    request: builder.Request, members: Mapping[str, bytes], archive_in: zipfile.ZipFile
) -> dict[str, bytes]:
    """The files of `licenses/`; pybind11's is in the patched wheel if its code is."""
    theirs = [n for n in members if n.startswith(HEADERS) and "/tf_allocator/" not in n]
    dist_info = metadata.dist_info_of(archive_in.namelist())
    pybind11 = f"{dist_info}/licenses/{notices.PYBIND11}"
    native = pybind11 in archive_in.namelist()
    notice = notices.of_library(request.wheel.release.version, sorted(theirs), native=native)
    licenses = {"LICENSE": (request.project / "LICENSE").read_bytes(), "NOTICE": notice.encode()}
    if native:
        licenses[notices.PYBIND11] = archive_in.read(pybind11)
    return licenses


def _check(wheel: Path) -> None:
    """What `run` and the binding will look for is there."""
    with zipfile.ZipFile(wheel) as written:
        names = set(written.namelist())
    wanted = {f"{PACKAGE}/{name}" for name in (compiling.LIBRARY_NAME, PRELOAD_NAME, "run.py")}
    if missing := sorted(wanted - names):
        raise BuildError(f"{wheel.name} would lack {', '.join(missing)}")


def check_preload(library: Path) -> None:
    """Checks that a library can be preloaded into any program: it needs the C library alone.

    Raises:
        BuildError: it needs more; the text names it.
    """
    # The dynamic loader, which has another name on every architecture, is the C library's.
    needed = {n for n in elf.read_dynamic(library).needed if not n.startswith("ld-linux-")}
    allowed = {"libc.so.6", "libdl.so.2"}
    if more := sorted(needed - allowed):
        raise BuildError(
            f"{library.name} would take {', '.join(more)} into every process; expected "
            f"nothing but {', '.join(sorted(allowed))}"
        )
