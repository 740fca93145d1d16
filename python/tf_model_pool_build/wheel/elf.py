# SPDX-License-Identifier: Apache-2.0
"""Reads and edits the dynamic symbols of TensorFlow's libraries.

pyelftools finds the sections; numpy searches them, because the larger library has too many
symbols and relocations for one Python object each. `undefine` writes a few bytes in place: that
library is far too large to be written anew.

A symbol that a library defines is taken from the first library in load order that has it; made
undefined in TensorFlow's library, it can only be ours. The sources are the ELF specification
(gABI, "Symbol Table"), and for relocation types those of `architecture`.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_RELOC_TYPE_AARCH64, ENUM_RELOC_TYPE_x64
from elftools.elf.sections import Section

from tf_model_pool_build.architecture import ARCHITECTURES, Architecture
from tf_model_pool_build.errors import (
    AlreadyPatchedError,
    BuildError,
    CorruptWheelError,
    SymbolError,
)
from tf_model_pool_build.releases.releases import ReplacedFunction

#: Past what two functions of one compiler begin with alike.
CODE_BYTES = 64
_VERSION_GLOBAL = 1  # VER_NDX_GLOBAL: any version will do

_SYMBOL = numpy.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("shndx", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
#: Their names are different on every architecture.
_RELOCATION_TYPES: Mapping[str, int] = {**ENUM_RELOC_TYPE_x64, **ENUM_RELOC_TYPE_AARCH64}
_RELOCATION = numpy.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])


@dataclasses.dataclass(frozen=True)
class Symbol:
    """An entry of .dynsym.

    Attributes:
        name: mangled.
        index: in .dynsym.
        value: address in the library, relative to its load address.
        code: the first bytes at that address.
    """

    name: str
    index: int
    value: int
    code: bytes


class Library:
    """The dynamic symbols and relocations of one ELF file."""

    def __init__(self, path: Path, called: str, wanted: Architecture | None = None) -> None:
        """Reads a library.

        Args:
            path: the file.
            called: its name in messages.
            wanted: what it must be for; None = any that is supported.

        Raises:
            CorruptWheelError: it is no ELF library, or one for something else.
        """
        self.path = path
        self.called = called
        try:
            with path.open("rb") as file:
                elf = ELFFile(file)
                self._architecture = _architecture(elf, called, wanted)
                dynsym = _section(elf, ".dynsym", called)
                versym = elf.get_section_by_name(".gnu.version")
                self._symbols_offset = int(dynsym["sh_offset"])
                self._versions_offset = None if versym is None else int(versym["sh_offset"])
                self._symbols = numpy.frombuffer(dynsym.data(), dtype=_SYMBOL)
                self._names = _section(elf, ".dynstr", called).data()
                self._relocations = numpy.concatenate(
                    [
                        numpy.frombuffer(section.data(), dtype=_RELOCATION)
                        for section in elf.iter_sections()
                        if section["sh_type"] == "SHT_RELA"
                    ]
                    or [numpy.empty(0, dtype=_RELOCATION)]
                )
                self._segments = [
                    (int(s["p_vaddr"]), int(s["p_filesz"]), int(s["p_offset"]))
                    for s in elf.iter_segments("PT_LOAD")
                ]
        except (ELFError, ValueError, OSError) as error:
            raise CorruptWheelError(f"{called} is not a readable ELF library: {error}") from error

    def find(self, function: ReplacedFunction) -> Symbol:
        """The one defined symbol with the function's prefix.

        Raises:
            SymbolError: there is none, or more than one.
            AlreadyPatchedError: it is there and undefined.
        """
        prefix = function.prefix.encode()
        offsets = []
        at = self._names.find(prefix)
        while at >= 0:
            offsets.append(at)
            at = self._names.find(prefix, at + 1)
        found = numpy.flatnonzero(numpy.isin(self._symbols["name"], offsets))
        defined = [int(index) for index in found if self._symbols[index]["shndx"] != 0]
        if len(found) and not defined:
            raise AlreadyPatchedError(
                f"{function.name} is undefined in {self.called}: its wheel is patched already"
            )
        if len(defined) != 1:
            names = ", ".join(sorted(self._name(index) for index in defined)) or "none"
            raise SymbolError(
                f"{self.called} must export {function.name} as exactly one symbol "
                f"{function.prefix}*; found: {names}"
            )
        value = int(self._symbols[defined[0]]["value"])
        return Symbol(self._name(defined[0]), defined[0], value, self._code(value))

    def check_bound(self, function: ReplacedFunction, symbol: Symbol) -> None:
        """Checks that TensorFlow reaches the function by its symbol, and only so.

        Raises:
            SymbolError: no relocation of the expected types names it, or a relative one holds
                its address, which would still lead to the original.
        """
        types = self._relocations["info"] & 0xFFFFFFFF
        by_symbol = types[(self._relocations["info"] >> 32) == symbol.index]
        names = self._architecture.bound_by[function.binding]
        wanted = {_RELOCATION_TYPES[name] for name in names}
        if not wanted.intersection(int(t) for t in by_symbol):
            found = ", ".join(sorted({self._relocation_name(int(t)) for t in by_symbol})) or "none"
            raise SymbolError(
                f"{function.name} is not bound by symbol in {self.called}: expected a relocation "
                f"{' or '.join(sorted(names))} of {symbol.name}, found: {found}"
            )
        relative = self._architecture.relative
        by_address = (types == _RELOCATION_TYPES[relative]) & (
            self._relocations["addend"] == symbol.value
        )
        if by_address.any():
            raise SymbolError(
                f"{function.name} is not bound by symbol in {self.called}: "
                f"{relative} relocations hold its address {symbol.value:#x}"
            )

    def undefine(self, symbols: Iterable[Symbol]) -> None:
        """Makes symbols undefined in the file, in place: they are then taken from elsewhere."""
        with self.path.open("r+b") as file:
            for symbol in symbols:
                entry = self._symbols[symbol.index].copy()
                entry["shndx"] = 0
                entry["value"] = 0
                file.seek(self._symbols_offset + symbol.index * _SYMBOL.itemsize)
                file.write(entry.tobytes())
                if self._versions_offset is not None:
                    file.seek(self._versions_offset + symbol.index * 2)
                    file.write(_VERSION_GLOBAL.to_bytes(2, "little"))

    def defines(self, name: str) -> bool:
        """Whether the library exports a symbol of exactly this name."""
        at = self._names.find(b"\0" + name.encode() + b"\0")
        found = numpy.flatnonzero(self._symbols["name"] == at + 1) if at >= 0 else ()
        return any(self._symbols[index]["shndx"] != 0 for index in found)

    def _relocation_name(self, number: int) -> str:
        prefix = self._architecture.relative.removesuffix("RELATIVE")
        for name, value in _RELOCATION_TYPES.items():
            if value == number and name.startswith(prefix):
                return name
        return f"type {number}"

    def _name(self, index: int) -> str:
        start = int(self._symbols[index]["name"])
        return self._names[start : self._names.index(b"\0", start)].decode()

    def _code(self, address: int) -> bytes:
        for start, size, offset in self._segments:
            if start <= address < start + size:
                with self.path.open("rb") as file:
                    file.seek(offset + address - start)
                    return file.read(min(CODE_BYTES, start + size - address))
        raise CorruptWheelError(f"{self.called} has no code at {address:#x}")


def _section(elf: ELFFile, name: str, called: str) -> Section:
    section = elf.get_section_by_name(name)
    if section is None:
        raise CorruptWheelError(f"{called} has no section {name}")
    return section


def _architecture(elf: ELFFile, called: str, wanted: Architecture | None) -> Architecture:
    allowed = ARCHITECTURES.values() if wanted is None else (wanted,)
    for row in allowed:
        if (elf["e_machine"], elf.elfclass, elf.little_endian) == (row.elf_machine, 64, True):
            return row
    raise CorruptWheelError(
        f"{called} is for {elf['e_machine']}, not for {' or '.join(row.name for row in allowed)}"
    )


@dataclasses.dataclass(frozen=True)
class Dynamic:
    """What the dynamic section says about other libraries."""

    soname: str
    needed: tuple[str, ...]
    runpath: tuple[str, ...]


def read_dynamic(path: Path) -> Dynamic:
    """SONAME, NEEDED and RUNPATH of an ELF file. Raises `BuildError`."""
    with path.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".dynamic")
        if not isinstance(section, DynamicSection):
            raise BuildError(f"{path.name} has no dynamic section")
        # pyelftools adds the string attributes by name, so its types do not have them.
        tags: list[Any] = list(section.iter_tags())
        paths = [t.runpath for t in tags if t.entry.d_tag == "DT_RUNPATH"]
        paths += [t.rpath for t in tags if t.entry.d_tag == "DT_RPATH"]
        return Dynamic(
            soname=next((t.soname for t in tags if t.entry.d_tag == "DT_SONAME"), ""),
            needed=tuple(t.needed for t in tags if t.entry.d_tag == "DT_NEEDED"),
            runpath=tuple(entry for path in paths for entry in path.split(":")),
        )


def need_library(path: Path, soname: str, patchelf: Path) -> None:
    """Makes a library load `soname` from its own directory, and checks that it then does.

    Raises:
        BuildError: patchelf failed or left something else than it was asked for.
    """
    before = read_dynamic(path)
    command: list[str | Path] = [patchelf, "--add-needed", soname]
    if "$ORIGIN" not in before.runpath:
        command += ["--add-rpath", "$ORIGIN"]
    result = subprocess.run([*command, path], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BuildError(f"patchelf failed on {path.name}: {result.stderr.strip()}")
    after = read_dynamic(path)
    if set(after.needed) != {*before.needed, soname} or "$ORIGIN" not in after.runpath:
        raise BuildError(
            f"patchelf left {path.name} with NEEDED {', '.join(after.needed)} "
            f"and RUNPATH {':'.join(after.runpath)}"
        )


def replace_functions(
    libraries: Mapping[str, Path],
    functions: Sequence[ReplacedFunction],
    wanted: Architecture | None = None,
) -> dict[ReplacedFunction, Symbol]:
    """Makes every function's symbol undefined in its library.

    Args:
        libraries: member name -> file to edit.
        functions: what to replace.
        wanted: what the libraries must be for; None = any that is supported.

    Returns:
        The symbols as they were.

    Raises:
        SymbolError, AlreadyPatchedError, CorruptWheelError: before any file is changed.
    """
    found: dict[ReplacedFunction, Symbol] = {}
    opened: list[tuple[Library, list[Symbol]]] = []
    for member, path in libraries.items():
        library = Library(path, member, wanted)
        symbols = []
        for function in functions:
            if function.library == member:
                symbol = library.find(function)
                library.check_bound(function, symbol)
                found[function] = symbol
                symbols.append(symbol)
        opened.append((library, symbols))
    for library, symbols in opened:
        library.undefine(symbols)
    return found
