# SPDX-License-Identifier: Apache-2.0
"""Runs the stages of the build; the package's docstring says which there are."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import threading
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tf_model_pool import files
from tf_model_pool._version import __version__
from tf_model_pool_build.errors import AlreadyPatchedError, BuildError, CorruptWheelError
from tf_model_pool_build.progress import Progress
from tf_model_pool_build.releases.releases import FRAMEWORK, INCLUDE, ReplacedFunction
from tf_model_pool_build.series import listing
from tf_model_pool_build.wheel import (
    archive,
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
    check_disk_space,
    full_disk_as_error,
    signals_as_errors,
    temporary_directory,
)

BUILD_INFO_SCHEMA = 1
_MIB = 1 << 20
_PACKAGE_SUFFIXES = frozenset({".py", ".pyi", ".typed"})
_DRIVER = f"tf_model_pool/bin/{compiling.DRIVER_NAME}"
#: Folders of tf_allocator/ whose headers a wheel has not.
_WITHOUT_HEADERS = frozenset({"bench"})
#: Object files and our library; measured with g++ 12, doubled.
_COMPILE_BYTES = 64 * _MIB
#: What our members may add to the wheel.
_ADDED_BYTES = 16 * _MIB


@dataclasses.dataclass(frozen=True)
class Request:
    """What to build, from what, and where.

    Attributes:
        wheel: the released wheel.
        project: root of the checkout.
        output: directory for the result.
        reuse: return a wheel of `output` that was made from the same, if there is one.
        workers: threads that compress and verify.
        python: which Python's headers the native module is compiled against; by default those of
            the wheel's Python, if they can be found.
        sources: patched sources of TensorFlow to build in place of the hooks, to try a patch
            series. Such a wheel is not reused.
    """

    wheel: source.Input
    project: Path
    output: Path
    reuse: bool = False
    workers: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    python: tools.PythonTarget | None = None
    sources: compiling.TensorFlowSources | None = None


def build(request: Request, progress: Progress) -> Path:
    """Makes the patched wheel.

    Returns:
        Its path below `request.output`.

    Raises:
        BuildError: one of its subclasses; nothing is left behind.
    """
    with signals_as_errors(), full_disk_as_error():
        target = request.wheel.architecture
        toolchain = tools.find_toolchain(target=target)
        python = request.python or tools.python_for(request.wheel.python_tag, target)
        if python.missing:
            progress.note(f"without a native module: {python.missing}")
        if request.reuse:
            wanted = digest.source_digest(request.project, request.wheel, toolchain, python)
            finished = digest.finished_wheel(request.output, wanted)
            if finished is not None:
                progress.note(f"up to date: {finished.name}")
                return finished
        state = request.project / ".build"
        with progress.stage(f"input {request.wheel.filename}"):
            path = source.fetch(request.wheel, state / "cache")
        with temporary_directory(state) as work:
            return _Build(request, toolchain, python, path, work, progress).run()


class _Build:
    """One build; the attributes are what later stages need of earlier ones."""

    def __init__(
        self,
        request: Request,
        toolchain: tools.Toolchain,
        python: tools.PythonTarget,
        path: Path,
        work: Path,
        progress: Progress,
    ) -> None:
        self._request = request
        self._wheel = request.wheel
        self._toolchain = toolchain
        self._python = python
        self._project = digest.snapshot(request.project, work / "project")
        self._digest = digest.source_digest(self._project, request.wheel, toolchain, python)
        self._path = path
        self._progress = progress
        self._unpacked = work / "wheel"
        self._work = work
        self._libraries = {
            member: self._unpacked / member
            for member in sorted({f.library for f in self._wheel.functions})
        }
        self._cancelled = threading.Event()

    def run(self) -> Path:
        try:
            archive_in = zipfile.ZipFile(self._path)
        except (zipfile.BadZipFile, OSError) as error:
            raise CorruptWheelError(f"{self._path.name} is not a readable zip: {error}") from error
        with archive_in:
            members = {i.filename: i for i in archive_in.infolist() if not i.is_dir()}
            dist_info = self._check_input(members)
            self._unpack(archive_in, members)
            with self._progress.stage("replace functions in TensorFlow's libraries"):
                symbols = self._edit_libraries()
            with self._progress.stage("patch headers"):
                patched = self._patch_headers()
            with ThreadPoolExecutor(self._request.workers + 1) as executor:
                try:
                    # Deflating has work for every core while the compiler starts, links, or
                    # waits for its last file.
                    with self._progress.stage("compile, and compress the edited libraries"):
                        deflating = executor.submit(self._deflate_libraries, executor)
                        compiled = self._compile(symbols)
                        deflated = deflating.result()
                except BaseException:
                    self._cancelled.set()
                    raise
            with self._progress.stage("platform tag"):
                tag = self._platform_tag(compiled)
            added = self._added_files(compiled, symbols, tag)
            added.update({name: (self._unpacked / name).read_bytes() for name in patched})
            notice = notices.of_patched(
                self._wheel.release.version,
                self._path.name,
                self._libraries,
                patched,
                native=bool(compiled.native),
            )
            return self._pack(archive_in, members, dist_info, added, deflated, tag, notice)

    # ---- stages -----------------------------------------------------------------------------

    def _check_input(self, members: Mapping[str, zipfile.ZipInfo]) -> str:
        if source.LIBRARY in members:
            raise AlreadyPatchedError(f"{self._path.name} contains {source.LIBRARY} already")
        missing = [name for name in self._libraries if name not in members]
        if missing:
            raise CorruptWheelError(f"{self._path.name} has no {', '.join(missing)}")
        dist_info = metadata.dist_info_of(members)
        for name in ("METADATA", "WHEEL", "RECORD", "top_level.txt"):
            if f"{dist_info}/{name}" not in members:
                raise CorruptWheelError(f"{self._path.name} has no {dist_info}/{name}")
        return dist_info

    def _unpack(self, archive_in: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> None:
        wanted = [
            info
            for name, info in members.items()
            if name in self._libraries or name.startswith(INCLUDE)
        ]
        size = self._path.stat().st_size
        unpacked = sum(info.file_size for info in wanted)
        # The edited framework library and the deflated libraries come on top of the unpacked.
        check_disk_space(
            {
                self._work: unpacked + members[FRAMEWORK].file_size + size + _COMPILE_BYTES,
                self._request.output: size + _ADDED_BYTES,
            }
        )
        with self._progress.stage("unpack libraries and headers"):
            archive.extract(
                archive_in,
                wanted,
                self._unpacked,
                lambda done, total: self._progress.update("", done, total),
            )

    def _edit_libraries(self) -> dict[ReplacedFunction, elf.Symbol]:
        framework = self._libraries[FRAMEWORK]
        elf.need_library(framework, compiling.LIBRARY_NAME, self._toolchain.patchelf)
        return elf.replace_functions(
            self._libraries, self._wheel.functions, self._wheel.architecture
        )

    def _patch_headers(self) -> tuple[str, ...]:
        series = listing.read(self._project / "patches", self._wheel.release.patches)
        changed = headers.patch_headers(self._unpacked / INCLUDE, series.changes)
        return tuple(INCLUDE + name for name in changed)

    def _deflate_libraries(self, executor: ThreadPoolExecutor) -> dict[str, archive.Deflated]:
        deflated = {}
        for index, (member, path) in enumerate(self._libraries.items()):
            deflated[member] = archive.deflate(
                path,
                self._work / f"member-{index}",
                executor,
                self._cancelled,
                lambda done, total: self._progress.update("compress", done, total),
                lookahead=2 * self._request.workers,
            )
        return deflated

    def _compile(self, symbols: Mapping[ReplacedFunction, elf.Symbol]) -> compiling.Compiled:
        definitions = {
            "TF_COMPILE_FLAGS": self._wheel.release.compile_flags,
            "TF_MODEL_POOL_VERSION": __version__,
        }
        for function, symbol in symbols.items():
            variable = f"TF_MODEL_POOL_{function.hook}"
            definitions[f"{variable}_SYMBOL"] = symbol.name
            definitions[f"{variable}_OFFSET"] = f"{symbol.value:#x}"
            definitions[f"{variable}_CODE"] = symbol.code.hex()
        compiled = compiling.compile_library(
            self._project,
            self._work,
            self._unpacked / "tensorflow",
            self._toolchain,
            self._python,
            definitions,
            lambda done, total: self._progress.update("compile", done, total),
            self._request.sources,
        )
        name = compiled.library.name
        library = elf.Library(compiled.library, name)
        for function, symbol in symbols.items():
            if not library.defines(symbol.name):
                raise BuildError(
                    f"{name} does not define {function.name} ({symbol.name}), which "
                    f"{function.library} would then lack"
                )
        return compiled

    def _platform_tag(self, compiled: compiling.Compiled) -> str:
        in_wheel = {elf.read_dynamic(path).soname for path in self._libraries.values()}
        in_wheel.add(elf.read_dynamic(compiled.library).soname)
        objects = [compiled.library, compiled.driver, self._libraries[FRAMEWORK]]
        objects += compiled.native.values()
        # Tags that are joined in a file's name say the same, the first in the newer notation.
        return platform_tag(self._wheel.platform.partition(".")[0], objects, in_wheel)

    def _added_files(
        self,
        compiled: compiling.Compiled,
        symbols: Mapping[ReplacedFunction, elf.Symbol],
        tag: str,
    ) -> dict[str, bytes]:
        project = self._project
        package = project / "python" / "tf_model_pool"
        files = {
            source.LIBRARY: compiled.library.read_bytes(),
            _DRIVER: compiled.driver.read_bytes(),
            digest.BUILD_INFO: self._build_info(symbols, tag),
        }
        for name, path in compiled.native.items():
            files[f"tf_model_pool/{name}{self._python.suffix}"] = path.read_bytes()
        for path in digest.source_files(project):
            if package in path.parents and path.suffix in _PACKAGE_SUFFIXES:
                files[f"tf_model_pool/{path.relative_to(package).as_posix()}"] = path.read_bytes()
        for path in sorted((project / "tf_allocator").glob("*/*.h")):
            if path.parent.name not in _WITHOUT_HEADERS:
                files[INCLUDE + path.relative_to(project).as_posix()] = path.read_bytes()
        return files

    def _build_info(self, symbols: Mapping[ReplacedFunction, elf.Symbol], tag: str) -> bytes:
        info = {
            "schema": BUILD_INFO_SCHEMA,
            "base_wheel": self._wheel.filename,
            "base_wheel_sha256": self._wheel.sha256,
            "tensorflow_version": self._wheel.release.version,
            "patch_set_version": __version__,
            "platform_tag": tag,
            "compile_flags": self._wheel.release.compile_flags,
            "native_missing": self._python.missing or None,
            "compiler": self._toolchain.compiler_version,
            "build_tools": dict(self._toolchain.versions),
            "replaced_functions": [
                {
                    "name": function.name,
                    "library": function.library,
                    "symbol": symbol.name,
                    "original_offset": symbol.value,
                    "original_code": symbol.code.hex(),
                }
                for function, symbol in symbols.items()
            ],
            "source_digest": "" if self._request.sources else self._digest,
        }
        return (json.dumps(info, indent=2, sort_keys=True) + "\n").encode()

    def _pack(
        self,
        archive_in: zipfile.ZipFile,
        members: Mapping[str, zipfile.ZipInfo],
        dist_info: str,
        added: dict[str, bytes],
        deflated: Mapping[str, archive.Deflated],
        tag: str,
        notice: str,
    ) -> Path:
        name = dist_info.removesuffix(".dist-info").partition("-")[0]
        version = f"{self._wheel.release.version}+{source.LOCAL_VERSION}.{__version__}"
        new_dist_info = f"{name}-{version}.dist-info"
        full_tag = f"{self._wheel.python_tag}-{self._wheel.python_tag}-{tag}"
        added.update(
            self._dist_info_files(archive_in, dist_info, new_dist_info, version, full_tag, notice)
        )

        record_in = metadata.read_record(archive_in.read(f"{dist_info}/RECORD").decode("utf-8"))
        copied: dict[str, zipfile.ZipInfo] = {}
        record: dict[str, RecordEntry] = {}
        for member, info in members.items():
            new_name = member
            if member.startswith(f"{dist_info}/"):
                new_name = f"{new_dist_info}/{member.partition('/')[2]}"
            if new_name in added or member in deflated or new_name.endswith(".dist-info/RECORD"):
                continue
            if member not in record_in:
                raise CorruptWheelError(f"RECORD of {self._path.name} does not list {member}")
            copied[new_name] = info
            record[new_name] = record_in[member]
        for member, contents in added.items():
            digest_of = hashlib.sha256(contents).digest()
            record[member] = RecordEntry(archive.record_hash(digest_of), len(contents))
        for member, result in deflated.items():
            record[member] = RecordEntry(archive.record_hash(result.sha256), result.size)

        # The specification recommends .dist-info at the end of the archive.
        order = sorted(record, key=lambda n: (n.startswith(new_dist_info), n))
        record_name = f"{new_dist_info}/RECORD"
        record_text = metadata.write_record({n: record[n] for n in order}, record_name)
        output = self._request.output
        output.mkdir(parents=True, exist_ok=True)
        final = output / f"{name}-{version}-{full_tag}.whl"
        with files.replacing(final) as partial:
            with (
                self._progress.stage(f"write {final.name}"),
                archive.WheelWriter(partial, self._date(members)) as writer,
            ):
                for index, member in enumerate(order):
                    self._progress.update("", index, len(order))
                    if member in deflated:
                        writer.add_deflated(member, deflated[member])
                    elif member in added:
                        writer.add(member, added[member], executable=member == _DRIVER)
                    else:
                        writer.copy(archive_in, copied[member], member)
                writer.add(record_name, record_text.encode())
            with self._progress.stage("verify RECORD"):
                metadata.verify(
                    partial,
                    self._request.workers,
                    lambda done, total: self._progress.update("", done, total),
                )
        return final

    def _dist_info_files(
        self,
        archive_in: zipfile.ZipFile,
        dist_info: str,
        new_dist_info: str,
        version: str,
        full_tag: str,
        notice: str,
    ) -> dict[str, bytes]:
        def read(name: str) -> str:
            return archive_in.read(f"{dist_info}/{name}").decode("utf-8")

        licenses = {
            "LICENSE.tf-model-pool": (self._project / "LICENSE").read_bytes(),
            "NOTICE.tf-model-pool": notice.encode(),
        }
        if self._python.include is not None:
            licenses[notices.PYBIND11] = self._toolchain.pybind11_license.encode()
        text = read("METADATA")
        if metadata.header_value(text, "Version") != self._wheel.release.version:
            raise CorruptWheelError(
                f"METADATA of {self._path.name} says version "
                f"{metadata.header_value(text, 'Version')!r}"
            )
        text = metadata.with_version(text, version)
        for name in licenses:
            text = metadata.with_license_file(text, name)
        text = metadata.with_first_line(text, notices.CHANGED)
        top_level = sorted({*read("top_level.txt").split(), "tf_model_pool"})
        has_commands = f"{dist_info}/entry_points.txt" in archive_in.namelist()
        commands = read("entry_points.txt") if has_commands else None
        return {
            f"{new_dist_info}/METADATA": text.encode(),
            f"{new_dist_info}/WHEEL": metadata.with_tag(read("WHEEL"), full_tag).encode(),
            f"{new_dist_info}/entry_points.txt": metadata.with_console_command(commands).encode(),
            f"{new_dist_info}/top_level.txt": ("\n".join(top_level) + "\n").encode(),
            **{f"{new_dist_info}/licenses/{name}": data for name, data in licenses.items()},
        }

    def _date(self, members: Mapping[str, zipfile.ZipInfo]) -> archive.DateTime:
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if not epoch:
            return max(info.date_time for info in members.values())
        try:
            time = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
        except ValueError as error:
            raise BuildError(
                f"SOURCE_DATE_EPOCH={epoch} is not a number of seconds since 1970"
            ) from error
        return (max(time.year, 1980), time.month, time.day, time.hour, time.minute, time.second)
