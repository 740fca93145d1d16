# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the zip of a wheel.

An unchanged member keeps its deflate stream, so that only what changed costs time. A changed one is
deflated in blocks by several threads; each block is primed with the end of the one before it (as
pigz does), and the streams join to one. The block size is fixed, so the bytes do not depend on
the number of threads.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
import struct
import threading
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tf_model_pool_build.errors import CorruptWheelError

DateTime = tuple[int, int, int, int, int, int]

_COPY_BYTES = 1 << 20
_BLOCK_BYTES = 8 << 20
_WINDOW_BYTES = 32 << 10  # deflate cannot look further back
#: zlib's default, as in the released wheels; higher levels take longer for under one percent.
_LEVEL = 6
_LOCAL_HEADER_BYTES = 30
_LOCAL_HEADER_SIGNATURE = b"PK\x03\x04"


def record_hash(digest: bytes) -> str:
    """A sha256 as RECORD writes it."""
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@dataclasses.dataclass(frozen=True)
class Deflated:
    """A member's contents, compressed.

    Attributes:
        path: file with the deflate stream, and nothing else.
        crc, size, sha256: of the contents.
    """

    path: Path
    crc: int
    size: int
    sha256: bytes


def _deflate_block(block: bytes, window: bytes, last: bool, cancelled: threading.Event) -> bytes:
    if cancelled.is_set():
        return b""
    deflater = zlib.compressobj(
        _LEVEL, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, *((window,) if window else ())
    )
    stream = deflater.compress(block)
    return stream + deflater.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def deflate(
    source: Path,
    target: Path,
    executor: ThreadPoolExecutor,
    cancelled: threading.Event,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    lookahead: int = 4,
) -> Deflated:
    """Compresses `source` into `target`.

    Args:
        source: the contents.
        target: file for the deflate stream.
        executor: runs the blocks; `lookahead` of them are in memory at once.
        cancelled: when set, the result is worthless and comes soon.
        on_progress: is called with bytes done and bytes in all.
    """
    total = source.stat().st_size
    digest = hashlib.sha256()
    crc = done = 0
    waiting: deque[Future[bytes]] = deque()
    with source.open("rb") as contents, target.open("wb") as out:
        window = b""
        block = contents.read(_BLOCK_BYTES)
        last = False
        while not last and not cancelled.is_set():
            following = contents.read(_BLOCK_BYTES)
            last = not following
            waiting.append(executor.submit(_deflate_block, block, window, last, cancelled))
            digest.update(block)
            crc = zlib.crc32(block, crc)
            done += len(block)
            window = block[-_WINDOW_BYTES:]
            block = following
            if len(waiting) >= lookahead:
                out.write(waiting.popleft().result())
                on_progress(done, total)
        while waiting:
            out.write(waiting.popleft().result())
    return Deflated(target, crc, total, digest.digest())


def deflate_bytes(contents: bytes) -> bytes:
    """The deflate stream of a small member."""
    return _deflate_block(contents, b"", True, threading.Event())


def _raw_stream(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    # The zip specification, 4.3.7: name and extra field follow the fixed part of the local
    # header, and their lengths there may differ from those in the central directory.
    file = archive.fp
    if file is None:
        raise ValueError("the archive is closed")
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    if len(header) != _LOCAL_HEADER_BYTES or not header.startswith(_LOCAL_HEADER_SIGNATURE):
        raise CorruptWheelError(f"the member {info.filename} is damaged")
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
    file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
    left = info.compress_size
    while left:
        data = file.read(min(left, _COPY_BYTES))
        if not data:
            raise CorruptWheelError(f"the member {info.filename} is cut short")
        left -= len(data)
        yield data


class WheelWriter:
    """Writes members whose deflate streams exist already.

    `zipfile` compresses what it writes, so this fills its list of members itself: `fp`,
    `filelist`, `NameToInfo`, `start_dir` and `ZipInfo.FileHeader` are what it offers for that.
    """

    def __init__(self, path: Path, date_time: DateTime) -> None:
        """Creates `path`; every member gets the time `date_time`."""
        self._zip = zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED)
        self._date_time = date_time

    def __enter__(self) -> WheelWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._zip.close()

    def copy(
        self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str | None = None
    ) -> None:
        """Takes a member of another archive over as it is, under `name` if given."""
        new = self._new(name or info.filename, executable=bool(info.external_attr >> 16 & 0o111))
        new.compress_type = info.compress_type
        new.CRC, new.file_size = info.CRC, info.file_size
        self._write(new, info.compress_size, _raw_stream(archive, info))

    def add(self, name: str, contents: bytes, *, executable: bool = False) -> None:
        """Adds a small member."""
        stream = deflate_bytes(contents)
        new = self._new(name, executable=executable)
        new.CRC, new.file_size = zlib.crc32(contents), len(contents)
        self._write(new, len(stream), iter((stream,)))

    def add_deflated(self, name: str, member: Deflated, *, executable: bool = False) -> None:
        """Adds a member that `deflate` compressed."""
        new = self._new(name, executable=executable)
        new.CRC, new.file_size = member.crc, member.size

        def stream() -> Iterator[bytes]:
            with member.path.open("rb") as file:
                while data := file.read(_COPY_BYTES):
                    yield data

        self._write(new, member.path.stat().st_size, stream())

    def _new(self, name: str, *, executable: bool) -> zipfile.ZipInfo:
        info = zipfile.ZipInfo(name, self._date_time)
        info.create_system = 3  # Unix: external_attr holds the mode
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = (0o100755 if executable else 0o100644) << 16
        return info

    def _write(self, info: zipfile.ZipInfo, size: int, stream: Iterator[bytes]) -> None:
        file = self._zip.fp
        if file is None:
            raise ValueError("the archive is closed")
        info.compress_size = size
        info.header_offset = file.tell()
        file.write(info.FileHeader())
        for data in stream:
            file.write(data)
        self._zip.start_dir = file.tell()
        self._zip.filelist.append(info)
        self._zip.NameToInfo[info.filename] = info


def extract(
    archive: zipfile.ZipFile,
    infos: list[zipfile.ZipInfo],
    directory: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Unpacks members below `directory`. Raises `CorruptWheelError`."""
    total = sum(info.file_size for info in infos)
    done = 0
    made: set[Path] = set()
    root = directory.resolve()
    for info in infos:
        target = root / info.filename
        if root not in target.resolve().parents:
            raise CorruptWheelError(f"the member {info.filename} lies outside of the wheel")
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        try:
            with archive.open(info) as source, target.open("wb") as out:
                while data := source.read(_COPY_BYTES):
                    out.write(data)
                    done += len(data)
                    on_progress(done, total)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise CorruptWheelError(f"the member {info.filename} is damaged: {error}") from error
