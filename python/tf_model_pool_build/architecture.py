# SPDX-License-Identifier: Apache-2.0
"""The architectures that wheels are made for, a row each with all that differs between them.

Relocation types: the System V ABI's supplements for x86-64 and for AArch64 ("ELF for the Arm 64-bit
Architecture").
"""

from __future__ import annotations

import dataclasses
import enum
import platform
from collections.abc import Mapping

from tf_model_pool_build.errors import UnsupportedWheelError


class Binding(enum.Enum):
    """How TensorFlow reaches a function that it exports."""

    VTABLE = "a slot of its class's table of virtual functions"
    CALL = "a call by its name"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One of the table.

    Attributes:
        name: as `uname -m`, platform tags and GNU triplets have it.
        elf_machine: the ELF header's e_machine, in pyelftools' words.
        bound_by: relocation types of which at least one names a function that is bound by symbol.
        relative: the relocation type that holds an address in place of a symbol.
    """

    name: str
    elf_machine: str
    bound_by: Mapping[Binding, frozenset[str]]
    relative: str

    @property
    def triplet(self) -> str:
        """Prefix of Debian's cross compilers, and part of the file name of a Python module."""
        return f"{self.name}-linux-gnu"

    @property
    def is_native(self) -> bool:
        """Whether this machine is of it."""
        return self.name == platform.machine()


ARCHITECTURES: Mapping[str, Architecture] = {
    row.name: row
    for row in (
        Architecture(
            name="x86_64",
            elf_machine="EM_X86_64",
            bound_by={
                Binding.VTABLE: frozenset({"R_X86_64_64"}),
                Binding.CALL: frozenset({"R_X86_64_JUMP_SLOT", "R_X86_64_GLOB_DAT"}),
            },
            relative="R_X86_64_RELATIVE",
        ),
        Architecture(
            name="aarch64",
            elf_machine="EM_AARCH64",
            bound_by={
                Binding.VTABLE: frozenset({"R_AARCH64_ABS64"}),
                Binding.CALL: frozenset({"R_AARCH64_JUMP_SLOT", "R_AARCH64_GLOB_DAT"}),
            },
            relative="R_AARCH64_RELATIVE",
        ),
    )
}


def find(name: str) -> Architecture:
    """The row of that name. Raises `UnsupportedWheelError`."""
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise UnsupportedWheelError(
            f"wheels for {name} are not supported; supported: {', '.join(ARCHITECTURES)}"
        ) from None


def of_platform(tag: str) -> Architecture:
    """The row for `manylinux_2_27_x86_64`. Raises `UnsupportedWheelError`."""
    for row in ARCHITECTURES.values():
        if tag.endswith(f"_{row.name}"):
            return row
    raise UnsupportedWheelError(
        f"the platform {tag} is not supported; supported: {', '.join(ARCHITECTURES)}"
    )
