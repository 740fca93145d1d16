# SPDX-License-Identifier: Apache-2.0
"""A release that the table lacks: looks at its wheels, and writes its row and its patch series.

    python -m tf_model_pool_build.releases.new 2.22.0rc0

`ci/release.sh --new` calls it. It says which functions are bound how and which hunks moved, and
writes nothing if a function that is in every release cannot be replaced, or a hunk does not fit.
A release takes the place of an older one of the same minor version.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tf_model_pool.cli import exit_status_of
from tf_model_pool.files import write_text
from tf_model_pool_build import architecture, project
from tf_model_pool_build.errors import (
    BuildError,
    CorruptWheelError,
    DownloadError,
    PatchError,
    SymbolError,
)
from tf_model_pool_build.releases import matrix, releases
from tf_model_pool_build.releases.releases import Release, ReleasedWheel, ReplacedFunction
from tf_model_pool_build.series import checkout, listing, patch, sources
from tf_model_pool_build.wheel import elf, headers, source, toolchain
from tf_model_pool_build.workspace import temporary_directory

TABLE = Path("python/tf_model_pool_build/releases/releases.py")
WORKFLOW = Path(".github/workflows/releases.yml")
#: What a release has wheels of, by machine; those of the first are needed.
_PACKAGES: Mapping[str, Sequence[str]] = {
    "x86_64": ("tensorflow-cpu", "tensorflow"),
    "aarch64": ("tensorflow",),
}
#: glibc's minor versions that a wheel may ask for.
_GLIBC = range(17, 46)
_RELEASE = re.compile(r"^    Release\(\n(?: {8}.*\n)+ {4}\),\n", re.MULTILINE)
_REST = re.compile(r"^ {8}(?:source|serving)=.*\Z", re.MULTILINE | re.DOTALL)


def nearest(version: str, table: Iterable[Release]) -> Release:
    """The row whose place `version` takes, else the newest older one. Raises `BuildError`."""
    rows = tuple(table)
    minor = releases.minor_of(version)
    key = releases.version_key(version)
    same = [row for row in rows if releases.minor_of(row.version) == minor]
    older = [row for row in rows if releases.version_key(row.version) < key]
    found = max(same or older, key=lambda row: releases.version_key(row.version), default=None)
    if found is None:
        raise BuildError(f"{version} is older than every release of the table")
    if releases.version_key(found.version) > key:
        raise BuildError(f"the table has {found.version}, which is newer than {version}")
    return found


# ---- wheels -------------------------------------------------------------------------------------


def find_wheel(
    package: str, version: str, python_tag: str, machine: str, work: Path, python: str
) -> ReleasedWheel | None:
    """What the package index has for one Python and machine; None if pip finds no such file.

    Raises:
        DownloadError: pip's report is not readable.
    """
    report = work / f"{package}-{python_tag}-{machine}.json"
    command = [python, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"]
    command += ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    command += ["--target", str(work / "target"), "--report", str(report)]
    command += ["--implementation", "cp", "--python-version", python_tag[2:], "--abi", python_tag]
    command += [f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC]
    command += [f"{package}=={version}"]
    environment = {**os.environ, "TMPDIR": str(work)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    try:
        (found,) = json.loads(report.read_text(encoding="utf-8"))["install"]
        info = found["download_info"]
        filename = str(info["url"]).rpartition("/")[2]
        sha256 = str(info["archive_info"]["hashes"]["sha256"])
    except (OSError, ValueError, KeyError) as error:
        raise DownloadError(f"pip's report on {report.stem} is not readable: {error!r}") from error
    platform = filename.removesuffix(".whl").rpartition("-")[2]
    return ReleasedWheel(package, version, python_tag, platform, sha256)


def find_wheels(
    version: str, like: Release, work: Path, python: str = sys.executable
) -> tuple[ReleasedWheel, ...]:
    """The wheels of all packages and machines, for the Pythons of `like` and the one after them.

    Raises:
        DownloadError: a package has none for x86-64, or they do not have one platform.
    """
    minors = sorted({int(wheel.python_tag[3:]) for wheel in like.wheels})
    tags = [f"cp3{minor}" for minor in (*minors, minors[-1] + 1)]
    found: list[ReleasedWheel] = []
    for machine, packages in _PACKAGES.items():
        for package in packages:
            asked = [find_wheel(package, version, tag, machine, work, python) for tag in tags]
            there = [wheel for wheel in asked if wheel is not None]
            if not there and machine == next(iter(_PACKAGES)):
                raise DownloadError(
                    f"pip finds no wheel of {package} {version} for {', '.join(tags)}"
                )
            found += there
    platforms = sorted({_manylinux(wheel) for wheel in found})
    if len(platforms) != 1:
        raise DownloadError(f"the wheels of {version} are for {', '.join(platforms)}; expected one")
    return tuple(found)


def _machine(wheel: ReleasedWheel) -> str:
    return architecture.of_platform(wheel.platform).name


def _manylinux(wheel: ReleasedWheel) -> str:
    machine = _machine(wheel)
    return ".".join(tag.removesuffix(f"_{machine}") for tag in wheel.platform.split("."))


# ---- functions ----------------------------------------------------------------------------------


def choose_functions(
    libraries: Mapping[str, Path],
) -> tuple[tuple[ReplacedFunction, ...], list[str]]:
    """What can be replaced in the libraries, and a line about each row of hooks.def.

    Raises:
        SymbolError: a function that is in every release cannot be, or none that loads a model.
    """
    opened = {member: elf.Library(path, member) for member, path in libraries.items()}
    bound: list[ReplacedFunction] = []
    lines: list[str] = []
    for function in releases.HOOKS.values():
        library = opened[function.library]
        try:
            symbol = library.find(function)
            library.check_bound(function, symbol)
        except SymbolError as error:
            lines.append(f"not replaced: {error}")
        else:
            bound.append(function)
            lines.append(f"{function.name}: {function.binding.value}, in {function.library}")
    chosen = list(releases.REPLACED_FUNCTIONS)
    if releases.LOAD_BUNDLE in bound:
        chosen += [f for f in (releases.LOAD_BUNDLE, releases.LOAD_LITE) if f in bound]
    else:
        chosen.append(releases.LOAD_META_GRAPH)
    if missing := [function.name for function in chosen if function not in bound]:
        raise SymbolError("\n".join([*lines, f"cannot be replaced: {', '.join(missing)}"]))
    return tuple(chosen), lines


# ---- series -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MovedSeries:
    """A series for another release.

    Attributes:
        files: name below the release's directory -> text.
        hashes: changed header -> hash of the text that it has in the wheel.
        lines: one about each hunk of a header.
    """

    files: Mapping[str, str]
    hashes: Mapping[str, str]
    lines: list[str]


def move_series(one: listing.Series, include: Path) -> MovedSeries:
    """The series `one` for the headers below `include`; a hunk may move, and must fit.

    Raises:
        PatchError: a header is missing, or a hunk does not fit.
    """
    of_headers = tuple(p for p in one.patches if headers.header_changes(p.changes))
    state = one.directory.parents[1] / ".build"
    with temporary_directory(state) as work:
        for change in headers.header_changes(c for p in of_headers for c in p.changes):
            file = include / change.files[0]
            if not file.is_file():
                raise PatchError(f"{change.change.path}: the wheel has no {change.files[0]}")
            copy = work / change.change.path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
        texts = checkout.export_again(dataclasses.replace(one, patches=of_headers), work)
    moved = dict(zip((p.name for p in of_headers), texts, strict=True))
    series = (one.directory / "series").read_text(encoding="utf-8")
    files: dict[str, str] = {}
    hashes: dict[str, str] = {}
    lines: list[str] = []
    for old in one.patches:
        text = moved.get(old.name, old.text)
        if text != old.text or old.path.parent == one.directory:
            files[old.name] = text
            series = series.replace(f"../{listing.SHARED}/{old.name}\n", f"{old.name}\n")
        if old.name in moved:
            new = patch.parse(old.path, text)
            for before, after in zip(old.changes, new.changes, strict=True):
                hashes[after.path] = after.before
                lines += _moves(before, after)
    return MovedSeries({"series": series, **files}, hashes, lines)


def _moves(before: patch.FileChange, after: patch.FileChange) -> list[str]:
    lines = []
    for number, (old, new) in enumerate(zip(before.hunks, after.hunks, strict=True), start=1):
        where = f"at line {new.old_at + 1}"
        if new.old_at != old.old_at:
            where = f"moved from line {old.old_at + 1} to {new.old_at + 1}"
        lines.append(f"{after.path}: hunk {number} {where}")
    return lines


# ---- what is written ----------------------------------------------------------------------------


def row_text(release: Release) -> str:
    """The row of the table, as it stands in releases.py, without sources and TensorFlow Serving."""
    constants = ("_CXX11_ABI", "_MANYLINUX_2_27", "_MANYLINUX_2_17")
    names = {getattr(releases, name): name for name in constants}

    def written(text: str) -> str:
        return names.get(text, f'"{text}"')

    def replaced(functions: Sequence[ReplacedFunction]) -> str:
        more = [f.hook for f in functions if f not in releases.REPLACED_FUNCTIONS]
        return f"(*REPLACED_FUNCTIONS, {', '.join(more)})"

    lines = [f'version="{release.version}",']
    if release.functions != Release.functions:
        lines.append(f"functions={replaced(release.functions)},")
    if release.functions_on:
        each = [f'"{name}": {replaced(some)}' for name, some in release.functions_on.items()]
        lines.append(f"functions_on={{{', '.join(each)}}},")
    lines.append(f'patches="{release.patches}",')
    lines.append(f"compile_flags={written(release.compile_flags)},")
    manylinux = written(_manylinux(release.wheels[0]))
    lines += ["wheels=_wheels(", f'    "{release.version}",', f"    {manylinux},"]
    for machine in _PACKAGES:
        lines.append("    {" if machine == "x86_64" else f"    {machine}={{")
        wheels = [wheel for wheel in release.wheels if _machine(wheel) == machine]
        for package in dict.fromkeys(wheel.package for wheel in wheels):
            lines.append(f'        "{package}": {{')
            lines += [
                f'            "{wheel.python_tag}": "{wheel.sha256}",'
                for wheel in wheels
                if wheel.package == package
            ]
            lines.append("        },")
        lines.append("    },")
        if not wheels:
            lines[-2:] = [f"    {machine}={{}},"]
    lines.append("),")
    return "    Release(\n" + "".join(f"        {line}\n" for line in lines) + "    ),\n"


def with_row(text: str, version: str, row: str) -> str:
    """releases.py with `row`: in the place of the minor version's, else before the next older.

    A row that is replaced leaves what it says of sources and of TensorFlow Serving.
    """
    for block in _RELEASE.finditer(text):
        there = re.search(r'^ {8}version="([^"]+)"', block[0], re.MULTILINE)
        if there is None:
            raise BuildError(f"{TABLE} has a row without a version: {block[0]}")
        if releases.minor_of(there[1]) == releases.minor_of(version):
            if rest := _REST.search(block[0]):
                row = row.removesuffix("    ),\n") + rest[0]
            return text[: block.start()] + row + text[block.end() :]
        if releases.version_key(there[1]) < releases.version_key(version):
            return text[: block.start()] + row + text[block.start() :]
    raise BuildError(f"{TABLE} has no row that is older than {version}")


def _with_version(workflow: str, version: str, replaced: str | None) -> str:
    if replaced is not None:
        return workflow.replace(f'"{replaced}"', f'"{version}"')
    return re.sub(r"^( +tensorflow: \[.*)\]$", rf'\1, "{version}"]', workflow, count=1, flags=re.M)


def _write(root: Path, release: Release, like: Release, moved: MovedSeries) -> list[str]:
    """Writes everything that names a release, and returns the files."""
    version, name = release.version, release.patches
    replaced = like.version if like.patches == name else None
    writes = {root / "patches" / name / file: text for file, text in moved.files.items()}

    record = sources.read(root / "patches")
    entry = {**record["releases"][like.patches], "verified": ""}
    entry["files"] = {
        path: {**file, "hash": moved.hashes.get(path, file["hash"])}
        for path, file in entry["files"].items()
    }
    record["releases"][name] = entry
    record_text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    writes[root / "patches" / sources.NAME] = record_text

    table, workflow = root / TABLE, root / WORKFLOW
    writes[table] = with_row(table.read_text(encoding="utf-8"), version, row_text(release))
    text = workflow.read_text(encoding="utf-8")
    writes[workflow] = _with_version(text, version, replaced)
    for path, text in writes.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    write_text(root / sources.DOCUMENT, sources.document_with_table(root))
    if replaced is not None:
        results = matrix.read_results(root / matrix.RECORDED)
        kept = [result for result in results if result.version != replaced]
        write_text(root / matrix.RECORDED, matrix.to_json(kept))
        matrix.main(["table"], root=root)
    return sorted(path.relative_to(root).as_posix() for path in writes)


def add(version: str, root: Path, table: Iterable[Release] = releases.RELEASES) -> None:
    """Adds a release, and says on standard output what it found. Raises `BuildError`."""
    like = nearest(version, table)
    one = listing.read(root / "patches", like.patches)
    state = root / ".build"
    with temporary_directory(state) as work:
        wheels = find_wheels(version, like, work)
        functions: dict[str, tuple[ReplacedFunction, ...]] = {}
        for machine in dict.fromkeys(map(_machine, wheels)):
            of_machine = [wheel for wheel in wheels if _machine(wheel) == machine]
            names = ", ".join(f"{wheel.package} {wheel.python_tag}" for wheel in of_machine)
            print(f"{version}, {of_machine[0].platform}: {names}", flush=True)
            # The libraries and headers of all of them are the same.
            tag = toolchain.running_python_tag()
            chosen = next((w for w in of_machine if w.python_tag == tag), of_machine[0])
            path = source.fetch(_input(chosen, like), state / "cache")
            unpacked = _unpack(path, one, work / machine)
            libraries = {m: unpacked / m for m in (releases.FRAMEWORK, releases.CC)}
            functions[machine], lines = choose_functions(libraries)
            print("\n".join(lines), flush=True)
        first, *others = functions
        moved = move_series(one, work / first / releases.INCLUDE)
        print("\n".join(moved.lines), flush=True)
        release = Release(
            version=version,
            patches=f"v{releases.minor_of(version)}",
            compile_flags=like.compile_flags,
            wheels=wheels,
            functions=functions[first],
            functions_on={m: functions[m] for m in others if functions[m] != functions[first]},
        )
        for name in _write(root, release, like, moved):
            print(f"wrote {name}")


def _input(wheel: ReleasedWheel, like: Release) -> source.Input:
    return source.Input(
        filename=wheel.filename,
        sha256=wheel.sha256,
        package=wheel.package,
        python_tag=wheel.python_tag,
        platform=wheel.platform,
        release=dataclasses.replace(like, version=wheel.version),
        path=None,
    )


def _unpack(wheel: Path, one: listing.Series, directory: Path) -> Path:
    wanted = {releases.FRAMEWORK, releases.CC}
    changes = headers.header_changes(one.changes)
    wanted |= {releases.INCLUDE + name for change in changes for name in change.files}
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory, sorted(wanted.intersection(archive.namelist())))
    except zipfile.BadZipFile as error:
        raise CorruptWheelError(f"{wheel.name} is not a readable zip: {error}") from error
    for name in (releases.FRAMEWORK, releases.CC):
        if not (directory / name).is_file():
            raise CorruptWheelError(f"{wheel.name} has no {name}")
    return directory


def main(arguments: Sequence[str], root: Path | None = None) -> int:
    """Adds the release; 0 also if the table has it already."""
    parser = argparse.ArgumentParser(
        prog="python -m tf_model_pool_build.releases.new",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("version", help="as the package index writes it, e.g. 2.22.0rc0")
    version = parser.parse_args(arguments).version
    if version in {release.version for release in releases.RELEASES}:
        print(f"the table has {version} already")
        return 0
    add(version, root or project.project_root())
    return 0


if __name__ == "__main__":
    sys.exit(exit_status_of(lambda: main(sys.argv[1:])))
