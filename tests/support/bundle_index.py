# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the index of a checkpoint: a table of sorted strings, as LevelDB has it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_UNCOMPRESSED = b"\0"


def varint(value: int) -> bytes:
    """The bytes of `value` in the encoding of tables and protocol buffers."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _read_varints(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    values = []
    for _ in range(count):
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        values.append(value)
    return values, at


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    at, end, key = 0, len(block) - 4 * (restarts + 1), b""
    while at < end:
        (shared, unshared, size), at = _read_varints(block, at, 3)
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + size]
        at += size


def _block(entries: Mapping[bytes, bytes]) -> bytes:
    out = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key + value
        for key, value in entries.items()
    )
    return out + struct.pack("<II", 0, 1)


def read_index(table: bytes) -> dict[bytes, bytes]:
    """The entries of an index, in order. The first, of key `b""`, is the header."""
    (_, _, offset, size), _ = _read_varints(table, len(table) - _FOOTER_BYTES, 4)
    found: dict[bytes, bytes] = {}
    for _, handle in _entries(table[offset : offset + size]):
        (start, length), _ = _read_varints(handle, 0, 2)
        if table[start + length : start + length + 1] != _UNCOMPRESSED:
            raise ValueError("a compressed index")
        found.update(_entries(table[start : start + length]))
    return found


def write_index(entries: Mapping[bytes, bytes]) -> bytes:
    """An index with these entries, which are sorted."""
    out = b""

    def add(block: bytes) -> bytes:
        nonlocal out
        handle = varint(len(out)) + varint(len(block))
        crc = _crc32c(block + _UNCOMPRESSED)
        masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        out += block + _UNCOMPRESSED + struct.pack("<I", masked)
        return handle

    data = add(_block(entries))
    filters = add(_block({}))
    index = add(_block({max(entries): data}))
    return out + (filters + index).ljust(_FOOTER_BYTES - 8, b"\0") + struct.pack("<Q", _MAGIC)
