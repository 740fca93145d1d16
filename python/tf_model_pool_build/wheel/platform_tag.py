# SPDX-License-Identifier: Apache-2.0
"""The platform tag that tells the truth about the patched wheel.

auditwheel's policies say which symbol versions and which libraries each manylinux tag promises.
TensorFlow's own objects keep the tag they were released with; ours were compiled here and may need
a newer C library, in which case the wheel does.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from auditwheel.architecture import Architecture
from auditwheel.elfutils import elf_find_versioned_symbols
from auditwheel.libc import Libc
from auditwheel.policy import Policy, WheelPolicies
from elftools.elf.elffile import ELFFile

from tf_model_pool_build import architecture
from tf_model_pool_build.errors import PlatformTagError
from tf_model_pool_build.wheel.elf import read_dynamic


def needed_versions(path: Path) -> dict[str, set[str]]:
    """Library -> symbol versions that an ELF file needs of it."""
    needed: dict[str, set[str]] = {}
    with path.open("rb") as file:
        for library, version in elf_find_versioned_symbols(ELFFile(file)):
            needed.setdefault(library, set()).add(version)
    return needed


def _newer_or_same(policies: WheelPolicies, input_tag: str) -> list[Policy]:
    try:
        base = policies.get_policy_by_name(input_tag)
    except LookupError as error:
        raise PlatformTagError(f"auditwheel has no policy for {input_tag}") from error
    allowed = [p for p in policies if p != policies.linux and p.priority <= base.priority]
    return sorted(allowed, key=lambda policy: policy.priority, reverse=True)


def platform_tag(input_tag: str, objects: Iterable[Path], in_wheel: Iterable[str]) -> str:
    """The oldest tag, at least as new as `input_tag`, that allows what `objects` need.

    Args:
        input_tag: the released wheel's, e.g. `manylinux_2_27_x86_64`.
        objects: the ELF files that the build made or changed.
        in_wheel: SONAMEs that the wheel itself brings.

    Raises:
        PlatformTagError: no policy does; the text names what is needed.
    """
    machine = Architecture(architecture.of_platform(input_tag).name)
    policies = WheelPolicies(libc=Libc.GLIBC, arch=machine)
    brought = set(in_wheel)
    versions: dict[str, set[str]] = {}
    libraries: set[str] = set()
    for path in objects:
        for library, needed in needed_versions(path).items():
            if library not in brought:
                versions.setdefault(library, set()).update(needed)
        libraries.update(set(read_dynamic(path).needed) - brought)
    # auditwheel never counts the dynamic loader as a library that a wheel would have to bring.
    libraries = {library for library in libraries if not library.startswith("ld-linux")}
    by_symbols = policies.versioned_symbols_policy(versions)
    for policy in _newer_or_same(policies, input_tag):
        if policy.priority <= by_symbols.priority and libraries <= policy.whitelist:
            return str(policy.name)
    raise PlatformTagError(
        f"no manylinux policy from {input_tag} on allows the compiled objects: they need "
        + ", ".join(sorted({v for needed in versions.values() for v in needed} | libraries))
    )
