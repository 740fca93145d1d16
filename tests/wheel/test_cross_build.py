# SPDX-License-Identifier: Apache-2.0
"""A wheel for 64-bit Arm, made on another machine: what it holds, and that its hooks are called.

Made from a small stand-in for a released wheel, with the real `preload.cc`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from packaging.utils import parse_wheel_filename

from support import fake_release
from support.fake_preload import OURS, PRELOAD, make_tensorflow, write_project
from tf_model_pool_build.architecture import ARCHITECTURES
from tf_model_pool_build.progress import Progress
from tf_model_pool_build.wheel import builder, library_only, toolchain

ROOT = Path(__file__).resolve().parents[2]
ARM = ARCHITECTURES["aarch64"]
COMPILER = f"{ARM.triplet}-g++"
EMULATOR = f"qemu-{ARM.name}"
PLATFORM = f"manylinux_2_27_{ARM.name}"

pytestmark = [
    pytest.mark.skipif(ARM.is_native, reason="this machine is of that architecture"),
    pytest.mark.skipif(
        shutil.which(COMPILER) is None,
        reason=f"no {COMPILER}; install it: apt-get install g++-aarch64-linux-gnu",
    ),
]

#: As `test_library_only.ASK`, without a Python.
ASK = """
#include <dlfcn.h>
#include <cstdio>
#include <string>
int main(int, char** argv) {
  const std::string directory = std::string(argv[1]) + "/libtensorflow_";
  void* framework = dlopen((directory + "framework.so.2").c_str(), RTLD_NOW | RTLD_GLOBAL);
  void* cc = dlopen((directory + "cc.so.2").c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (framework == nullptr || cc == nullptr) return std::puts(dlerror()), 1;
  const auto ask_device = reinterpret_cast<int (*)()>(dlsym(framework, "ask_device"));
  const auto ask_restore = reinterpret_cast<int (*)(int)>(dlsym(cc, "ask_restore"));
  const auto ask_load = reinterpret_cast<int (*)(int)>(dlsym(framework, "ask_load"));
  // The first time the hooks look for where they lead, the second time they know.
  std::string answers[2];
  for (std::string& answer : answers) {
    answer = "{\\"device\\": " + std::to_string(ask_device()) +
             ", \\"restore\\": " + std::to_string(ask_restore(2)) +
             ", \\"load\\": " + std::to_string(ask_load(4)) + "}";
  }
  std::puts(answers[0].c_str());
  return answers[0] == answers[1] ? 0 : (std::puts(answers[1].c_str()), 1);
}
"""


@dataclasses.dataclass(frozen=True)
class Built:
    """The two wheels."""

    patched: Path
    library: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    scratch = tmp_path_factory.mktemp("cross")
    members = fake_release.default_members(
        scratch / "libraries", compiler=COMPILER, platform=PLATFORM
    )
    released = fake_release.write_wheel(scratch / "released", members, platform=PLATFORM).input
    project = write_project(scratch / "project")
    python = toolchain.python_for(released.python_tag, ARM)
    request = builder.Request(
        released, project, project / "dist", reuse=True, workers=2, python=python
    )
    library = library_only.build(request, Progress(quiet=True))
    (patched,) = library.parent.glob("tensorflow_cpu-*.whl")
    return Built(patched, library)


@pytest.mark.parametrize("which", ["patched", "library"])
def test_all_that_is_compiled_is_for_the_wheels_machine(built: Built, which: str) -> None:
    wheel: Path = getattr(built, which)
    machines = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            contents = archive.read(name)
            if contents.startswith(b"\x7fELF"):
                elf_file = ELFFile(io.BytesIO(contents))
                machines[name] = (elf_file["e_machine"], elf_file.elfclass)
    assert set(machines.values()) == {(ARM.elf_machine, 64)}
    names = {Path(name).name for name in machines}
    assert {"libtf_model_pool.so", "swap_driver"} < names
    assert f"_native.cpython-{fake_release.PYTHON_TAG[2:]}-{ARM.triplet}.so" in names
    assert (PRELOAD in names) == (which == "library")
    _, _, _, tags = parse_wheel_filename(wheel.name)
    assert all(tag.platform.endswith(f"_{ARM.name}") for tag in tags)


@pytest.mark.skipif(
    shutil.which(EMULATOR) is None,
    reason=f"no {EMULATOR}; install it: apt-get install qemu-user",
)
@pytest.mark.parametrize("which", ["patched", "library"])
def test_calls_of_tensorflows_reach_the_library(built: Built, which: str, tmp_path: Path) -> None:
    # GIVEN the libraries of the patched wheel, or released ones and the library to preload
    with zipfile.ZipFile(getattr(built, which)) as archive:
        archive.extractall(tmp_path)
    tensorflow, preload = tmp_path / "tensorflow", ""
    if which == "library":
        make_tensorflow(tensorflow, fake_release.VERSION, compiler=COMPILER)
        preload = str(tmp_path / "tf_model_pool" / PRELOAD)
    program = tmp_path / "ask"
    command = [COMPILER, "-x", "c++", "-", "-x", "none", "-ldl", "-o", str(program)]
    subprocess.run(command, input=ASK, text=True, check=True)
    # WHEN
    done = subprocess.run(
        [EMULATOR, "-L", f"/usr/{ARM.triplet}", "-E", f"LD_PRELOAD={preload}", program, tensorflow],
        capture_output=True,
        text=True,
        check=False,
    )
    # THEN
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert json.loads(done.stdout) == OURS


@pytest.mark.parametrize(
    "name", ["pool/system_memory.cc", "pool/model_pool.cc", "sched/load_thread.cc"]
)
def test_what_asks_the_system_compiles(name: str) -> None:
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{ROOT}"]
    subprocess.run([COMPILER, *flags, str(ROOT / "tf_allocator" / name)], check=True)
