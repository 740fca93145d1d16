# SPDX-License-Identifier: Apache-2.0
"""The wheel made from the released one, as `./build.sh test` hands it over in PATCHED_WHEEL."""

from __future__ import annotations

import csv
import filecmp
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from auditwheel.elfutils import elf_find_versioned_symbols
from elftools.elf.elffile import ELFFile
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

from tf_model_pool_build import architecture
from tf_model_pool_build.releases import releases
from tf_model_pool_build.wheel import elf, metadata, platform_tag

ROOT = Path(__file__).resolve().parents[2]
MAY_GROW_BYTES = 3 * 1000 * 1000
EDITED = (releases.FRAMEWORK, releases.CC)
OURS = "tensorflow/libtf_model_pool.so"
DRIVER = "tf_model_pool/bin/swap_driver"

pytestmark = pytest.mark.released_wheel


@pytest.fixture(scope="module")
def wheel() -> Path:
    path = os.environ.get("PATCHED_WHEEL")
    if not path:
        pytest.fail("PATCHED_WHEEL is not set: run the tests with ./build.sh test")
    return Path(path)


@pytest.fixture(scope="module")
def contents(wheel: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel) as opened:
        yield opened


@pytest.fixture(scope="module")
def build_info(contents: zipfile.ZipFile) -> dict[str, Any]:
    info: dict[str, Any] = json.loads(contents.read("tf_model_pool/build_info.json"))
    return info


@pytest.fixture(scope="module")
def released(build_info: dict[str, Any]) -> Path:
    return ROOT / ".build" / "cache" / str(build_info["base_wheel"])


@pytest.fixture(scope="module")
def libraries(contents: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("libraries")
    names = [name for name in contents.namelist() if name.startswith("tf_model_pool/_")]
    for name in (*EDITED, OURS, DRIVER, *(n for n in names if n.endswith(".so"))):
        contents.extract(name, directory)
    return directory


def native_modules(libraries: Path) -> tuple[Path, Path]:
    """`_native` and `_session`."""
    native, session = sorted((libraries / "tf_model_pool").glob("_*.so"))
    assert (native.name.partition(".")[0], session.name.partition(".")[0]) == (
        "_native",
        "_session",
    )
    return native, session


def test_every_member_is_what_record_says(wheel: Path) -> None:
    metadata.verify(wheel, workers=2)


def test_it_has_no_build_tooling(contents: zipfile.ZipFile) -> None:
    folders = {name.split("/")[0] for name in contents.namelist()}
    assert "tf_model_pool" in folders
    assert "tf_model_pool_build" not in folders


def test_the_running_python_can_install_it(wheel: Path) -> None:
    assert parse_wheel_filename(wheel.name)[3] & set(sys_tags())


def test_it_is_little_larger_than_the_released_wheel(wheel: Path, released: Path) -> None:
    assert wheel.stat().st_size - released.stat().st_size <= MAY_GROW_BYTES


def test_only_what_must_change_differs_from_the_released_wheel(
    contents: zipfile.ZipFile, released: Path
) -> None:
    def members(wheel: zipfile.ZipFile) -> dict[str, int]:
        return {i.filename: i.CRC for i in wheel.infolist() if not i.is_dir()}

    with zipfile.ZipFile(released) as original:
        before, after = members(original), members(contents)
    changed = {n for n in before if after.get(n) != before[n] and ".dist-info/" not in n}
    assert changed == {
        *EDITED,
        "tensorflow/include/xla/tsl/framework/allocator.h",
        "tensorflow/include/tensorflow/compiler/xla/tsl/framework/allocator.h",
        "tensorflow/include/tensorflow/core/common_runtime/process_state.h",
    }
    allowed = ("tf_model_pool/", "tensorflow/include/tf_allocator/", OURS)
    assert not [
        n for n in set(after) - set(before) if not n.startswith(allowed) and ".dist-info/" not in n
    ]


def test_replaced_functions_are_undefined_in_tensorflow_and_defined_in_ours(
    libraries: Path, build_info: dict[str, Any]
) -> None:
    ours = elf.Library(libraries / OURS, OURS)
    theirs = {name: elf.Library(libraries / name, name) for name in EDITED}
    replaced = build_info["replaced_functions"]
    release = releases.find_release(build_info["tensorflow_version"])
    machine = architecture.of_platform(build_info["platform_tag"]).name
    expected = release.functions_for(machine)
    assert {function["name"] for function in replaced} == {f.name for f in expected}
    for function in replaced:
        assert ours.defines(function["symbol"])
        assert not any(library.defines(function["symbol"]) for library in theirs.values())


def test_segments_can_be_mapped_with_the_largest_pages_of_the_machine(libraries: Path) -> None:
    for path in (libraries / OURS, libraries / releases.FRAMEWORK):
        with path.open("rb") as file:
            elf_file = ELFFile(file)
            page = {"EM_X86_64": 4 << 10, "EM_AARCH64": 64 << 10}[elf_file["e_machine"]]
            for segment in elf_file.iter_segments("PT_LOAD"):
                assert segment["p_align"] % page == 0
                assert (segment["p_vaddr"] - segment["p_offset"]) % page == 0


def test_libraries_find_each_other_wherever_they_are_installed(libraries: Path) -> None:
    framework = elf.read_dynamic(libraries / releases.FRAMEWORK)
    assert "libtf_model_pool.so" in framework.needed
    assert "$ORIGIN" in framework.runpath
    # Second comes the place in the distribution for an untouched TensorFlow.
    assert elf.read_dynamic(libraries / OURS).runpath == ("$ORIGIN", "$ORIGIN/../tensorflow")
    native, session = native_modules(libraries)
    assert elf.read_dynamic(native).runpath == ("$ORIGIN/../tensorflow", "$ORIGIN")
    assert elf.read_dynamic(session).runpath == ("$ORIGIN/../tensorflow",)
    driver = elf.read_dynamic(libraries / DRIVER)
    assert driver.runpath == ("$ORIGIN/../../tensorflow",)
    # They run with the released TensorFlow too.
    assert "libtf_model_pool.so" not in driver.needed
    assert "libtf_model_pool.so" not in elf.read_dynamic(session).needed


def glibc_needed(path: Path) -> tuple[int, ...]:
    with path.open("rb") as file:
        versions = {v for _, v in elf_find_versioned_symbols(ELFFile(file))}
    numbers = [v.removeprefix("GLIBC_").split(".") for v in versions if v.startswith("GLIBC_2")]
    return max(tuple(int(part) for part in number) for number in numbers)


def test_the_platform_tag_is_not_older_than_what_the_objects_need(
    wheel: Path, libraries: Path
) -> None:
    (platform,) = {tag.platform for tag in parse_wheel_filename(wheel.name)[3]}
    promised = tuple(int(part) for part in platform.split("_")[1:3])
    modules = native_modules(libraries)
    objects = (libraries / OURS, *modules, libraries / DRIVER, libraries / releases.FRAMEWORK)
    assert max(glibc_needed(path) for path in objects) <= promised
    in_wheel = [Path(name).name for name in (*EDITED, OURS)]
    assert platform_tag.platform_tag(platform, objects, in_wheel) == platform


def test_nothing_tells_where_it_was_built(contents: zipfile.ZipFile, libraries: Path) -> None:
    for binary in (libraries / OURS, *native_modules(libraries), libraries / DRIVER):
        assert str(ROOT).encode() not in binary.read_bytes()
    assert str(ROOT) not in contents.read("tf_model_pool/build_info.json").decode()


def test_patched_headers_compile_with_the_flags_of_the_installed_package(tmp_path: Path) -> None:
    # GIVEN a C++ user of the new members
    program = tmp_path / "user.cc"
    program.write_text(
        '#include "tensorflow/core/common_runtime/process_state.h"\n'
        "size_t Use() {\n"
        "  tensorflow::AllocatorAttributes attributes;\n"
        "  attributes.set_on_host(true);\n"
        "  attributes.set_model_pool(7);\n"
        "  attributes.set_model_pool(255);\n"
        "  if (attributes.model_pool() != 255 || !attributes.on_host()) return 0;\n"
        "  return tensorflow::ProcessState::singleton()->ListModelPools().size();\n"
        "}\n"
    )
    flags = subprocess.run(
        [sys.executable, "-c", "import tensorflow as t; print(*t.sysconfig.get_compile_flags())"],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    # WHEN, THEN
    subprocess.run(["g++", "-fsyntax-only", *flags, str(program)], check=True)


def test_pip_finds_nothing_missing() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    # The protos of recorded requests are installed without what they name: a TensorFlow under
    # another distribution's name.
    expected = ("tensorflow-serving-api ", "No broken requirements found.")
    missing = [line for line in found.stdout.splitlines() if not line.startswith(expected)]
    assert missing == []


def test_the_installed_files_are_those_of_record(contents: zipfile.ZipFile) -> None:
    import importlib.metadata

    (record,) = (name for name in contents.namelist() if name.endswith(".dist-info/RECORD"))
    distribution = importlib.metadata.distribution(record.partition("-")[0])
    installed = {str(path) for path in distribution.files or ()}
    listed = {row[0] for row in csv.reader(io.StringIO(contents.read(record).decode()))}
    assert listed <= installed


@pytest.mark.slow
def test_building_again_elsewhere_gives_the_same_bytes(
    wheel: Path, released: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    command = [sys.executable, "-m", "tf_model_pool_build", "build", "--wheel", str(released)]
    again = subprocess.run(
        [*command, "--output", str(tmp_path), "--quiet"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    # THEN no member differs (which says more than the bytes), and neither do the bytes
    assert Path(again).name == wheel.name
    with zipfile.ZipFile(again) as second, zipfile.ZipFile(wheel) as first:
        sums = [{i.filename: i.CRC for i in opened.infolist()} for opened in (first, second)]
    names = sums[0].keys() | sums[1].keys()
    differing = sorted(name for name in names if sums[0].get(name) != sums[1].get(name))
    assert differing == [], "these differ; were the sources edited while the tests ran?"
    same = filecmp.cmp(again, wheel, shallow=False)
    Path(again).unlink()
    assert same
