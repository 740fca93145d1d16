# SPDX-License-Identifier: Apache-2.0
"""The text members of `*.dist-info`, and the check of a finished wheel against its RECORD.

Rules: "Binary distribution format" and "Recording installed projects" of the PyPA specifications.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tf_model_pool.cli import CONSOLE_COMMAND
from tf_model_pool_build.errors import BuildError, CorruptWheelError
from tf_model_pool_build.wheel.archive import record_hash

_COPY_BYTES = 1 << 20
# "Entry points specification" of the PyPA: the group whose entries pip makes programs of.
_CONSOLE_SCRIPTS = "[console_scripts]"


@dataclasses.dataclass(frozen=True)
class RecordEntry:
    """One line of RECORD; `hash` is "" for RECORD itself."""

    hash: str
    size: int


def dist_info_of(names: Iterable[str]) -> str:
    """The one `<name>-<version>.dist-info` among member names. Raises `CorruptWheelError`."""
    found = sorted({name.partition("/")[0] for name in names if ".dist-info/" in name})
    found = [name for name in found if name.endswith(".dist-info")]
    if len(found) != 1:
        raise CorruptWheelError(
            f"a wheel has one .dist-info directory; found: {', '.join(found) or 'none'}"
        )
    return found[0]


def header_value(text: str, key: str) -> str:
    """The value of a line `key: value`, or "" without one."""
    match = re.search(rf"^{re.escape(key)}: (.*?)\r?$", text, re.MULTILINE)
    return match.group(1) if match else ""


def with_version(metadata: str, version: str) -> str:
    """METADATA with another version."""
    changed, count = re.subn(r"^Version: .*$", f"Version: {version}", metadata, count=1, flags=re.M)
    if count != 1:
        raise CorruptWheelError("METADATA has no line 'Version:'")
    return changed


def with_license_file(metadata: str, name: str) -> str:
    """METADATA that also lists the licence file `name`."""
    head, separator, body = metadata.partition("\n\n")
    return f"{head}\nLicense-File: {name}{separator}{body}"


def with_first_line(metadata: str, line: str) -> str:
    """METADATA whose description begins with the paragraph `line`."""
    head, separator, body = metadata.partition("\n\n")
    return f"{head}\n\n{line}\n\n{body}" if separator else f"{head.rstrip()}\n\n{line}\n"


def with_console_command(entry_points: str | None) -> str:
    """entry_points.txt that also has the command `tf-model-pool`; None if there is none yet."""
    line = f"{CONSOLE_COMMAND} = tf_model_pool.cli:main"
    lines = (entry_points or "").splitlines()
    if line in lines:
        return entry_points or ""
    if _CONSOLE_SCRIPTS not in lines:
        lines += ["", _CONSOLE_SCRIPTS] if lines else [_CONSOLE_SCRIPTS]
    first = lines.index(_CONSOLE_SCRIPTS) + 1
    last = next((i for i in range(first, len(lines)) if lines[i].startswith("[")), len(lines))
    while not lines[last - 1].strip():
        last -= 1
    return "\n".join([*lines[:last], line, *lines[last:]]) + "\n"


def with_tag(wheel: str, tag: str) -> str:
    """WHEEL with one tag in place of those it had."""
    lines = wheel.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith("Tag:")), None)
    if first is None:
        raise CorruptWheelError("WHEEL has no line 'Tag:'")
    kept = [line for i, line in enumerate(lines) if i == first or not line.startswith("Tag:")]
    return "\n".join(f"Tag: {tag}" if line.startswith("Tag:") else line for line in kept) + "\n"


def read_record(text: str) -> dict[str, RecordEntry]:
    """RECORD as a table. Raises `CorruptWheelError`."""
    entries = {}
    try:
        for name, digest, size in csv.reader(io.StringIO(text)):
            entries[name] = RecordEntry(digest, int(size or 0))
    except (ValueError, csv.Error) as error:
        raise CorruptWheelError(f"RECORD is malformed: {error}") from error
    return entries


def write_record(entries: Mapping[str, RecordEntry], record_name: str) -> str:
    """The text of RECORD, with its own line last."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for name, entry in entries.items():
        writer.writerow((name, entry.hash, entry.size))
    writer.writerow((record_name, "", ""))
    return out.getvalue()


def _check_members(path: Path, names: list[str], record: Mapping[str, RecordEntry]) -> int:
    checked = 0
    with zipfile.ZipFile(path) as archive:
        for name in names:
            digest = hashlib.sha256()
            size = 0
            try:
                with archive.open(name) as member:
                    while data := member.read(_COPY_BYTES):
                        digest.update(data)
                        size += len(data)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise BuildError(f"{path.name}: the member {name} is damaged: {error}") from error
            if (record_hash(digest.digest()), size) != (record[name].hash, record[name].size):
                raise BuildError(f"{path.name}: the member {name} is not what RECORD says")
            checked += size
    return checked


def verify(
    path: Path,
    workers: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Reads a wheel whole and compares every member with RECORD.

    Raises:
        BuildError: a member is damaged, is not what RECORD says, or is in one but not in the other.
    """
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        if len(infos) != sum(not info.is_dir() for info in archive.infolist()):
            raise BuildError(f"{path.name} has two members of one name")
        record_name = dist_info_of(infos) + "/RECORD"
        if record_name not in infos:
            raise BuildError(f"{path.name} has no RECORD")
        record = read_record(archive.read(record_name).decode("utf-8"))
    different = sorted(set(record) ^ set(infos))
    if different:
        raise BuildError(
            f"{path.name}: members and RECORD differ: {', '.join(different[:5])}"
            + (" and more" if len(different) > 5 else "")
        )
    total = sum(info.file_size for info in infos.values())
    done = 0
    # The largest alone, the rest in as many shares as there are other workers.
    names = sorted(set(infos) - {record_name}, key=lambda name: -infos[name].file_size)
    shares = [names[:1], *(names[1 + i :: max(1, workers - 1)] for i in range(max(1, workers - 1)))]
    with ThreadPoolExecutor(max(1, workers)) as executor:
        for size in executor.map(lambda share: _check_members(path, share, record), shares):
            done += size
            on_progress(done, total)
