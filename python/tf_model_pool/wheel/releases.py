# SPDX-License-Identifier: Apache-2.0
"""The released wheels that the builder accepts, and what it replaces in them. Data only.

The sha256 values are those of the package index (`pip install --dry-run --report - --no-deps
tensorflow-cpu==2.21.0` shows them).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from tf_model_pool.errors import UnsupportedWheelError

FRAMEWORK = "tensorflow/libtensorflow_framework.so.2"
CC = "tensorflow/libtensorflow_cc.so.2"
INCLUDE = "tensorflow/include/"
#: The distribution of the released wheel -> the directory-safe form that file names use.
PACKAGES: Mapping[str, str] = {"tensorflow-cpu": "tensorflow_cpu", "tensorflow": "tensorflow"}


@dataclasses.dataclass(frozen=True)
class ReplacedFunction:
    """A function of TensorFlow that libtf_model_pool.so defines in its place.

    Attributes:
        name: for people.
        library: the member of the wheel that exports it.
        prefix: start of the mangled name; the rest holds Abseil's inline namespace, which
            changes with every Abseil release.
        relocations: ELF relocation types of which at least one must name the symbol. Without
            one, TensorFlow reaches the function by address and would never see ours.
        keeps_original: name of the CMake variables that get the original's address and first
            bytes, so that ours can call it; "" where it is replaced for good.
    """

    name: str
    library: str
    prefix: str
    relocations: frozenset[str]
    keeps_original: str = ""


_CALLED_THROUGH_PLT = frozenset({"R_X86_64_JUMP_SLOT", "R_X86_64_GLOB_DAT"})

REPLACED_FUNCTIONS: tuple[ReplacedFunction, ...] = (
    ReplacedFunction(
        name="tensorflow::ThreadPoolDevice::GetAllocator",
        library=FRAMEWORK,
        prefix="_ZN10tensorflow16ThreadPoolDevice12GetAllocatorE",
        relocations=frozenset({"R_X86_64_64"}),  # the slot of the vtable
    ),
    ReplacedFunction(
        name="tensorflow::RestoreTensorsV2",
        library=CC,
        prefix="_ZN10tensorflow16RestoreTensorsV2E",
        relocations=_CALLED_THROUGH_PLT,
        keeps_original="TF_MODEL_POOL_RESTORE_V2",
    ),
    ReplacedFunction(
        name="tensorflow::RestoreTensor",
        library=CC,
        prefix="_ZN10tensorflow13RestoreTensorE",
        relocations=_CALLED_THROUGH_PLT,
        keeps_original="TF_MODEL_POOL_RESTORE_V1",
    ),
    ReplacedFunction(
        name="tensorflow::RestoreSession",
        library=FRAMEWORK,
        prefix="_ZN10tensorflow14RestoreSessionE",
        relocations=_CALLED_THROUGH_PLT,
        keeps_original="TF_MODEL_POOL_RESTORE_SESSION",
    ),
)


@dataclasses.dataclass(frozen=True)
class ReleasedWheel:
    """One file of a release, as the package index has it."""

    package: str
    version: str
    python_tag: str
    platform: str
    sha256: str

    @property
    def filename(self) -> str:
        return (
            f"{PACKAGES[self.package]}-{self.version}-{self.python_tag}-{self.python_tag}"
            f"-{self.platform}.whl"
        )


@dataclasses.dataclass(frozen=True)
class Release:
    """What all wheels of one TensorFlow version have in common.

    Attributes:
        version: TensorFlow's version.
        patches: directory under patches/.
        compile_flags: what fixes TensorFlow's ABI; `tf.sysconfig.get_compile_flags()` of the
            release, without the include directory and the language standard.
        wheels: the files that the builder knows.
        functions: what it replaces in them.
    """

    version: str
    patches: str
    compile_flags: str
    wheels: tuple[ReleasedWheel, ...]
    functions: tuple[ReplacedFunction, ...] = REPLACED_FUNCTIONS


def _x86_64_wheels(
    version: str, platform: str, sums: Mapping[tuple[str, str], str]
) -> tuple[ReleasedWheel, ...]:
    return tuple(
        ReleasedWheel(package, version, python_tag, platform, sha256)
        for (package, python_tag), sha256 in sums.items()
    )


RELEASES: tuple[Release, ...] = (
    Release(
        version="2.21.0",
        patches="v2.21",
        compile_flags="-D_GLIBCXX_USE_CXX11_ABI=1 -DEIGEN_MAX_ALIGN_BYTES=64",
        wheels=_x86_64_wheels(
            "2.21.0",
            "manylinux_2_27_x86_64",
            {
                (
                    "tensorflow-cpu",
                    "cp310",
                ): "d143e92f5c0661cdfa26eaca8f73cd2efd0ec53a68af8dec82f584ba8eb14b83",
                (
                    "tensorflow-cpu",
                    "cp311",
                ): "2b847d217b02ee7731ed91431daf3250daa0196c3c94614d23be27232e6e5b6c",
                (
                    "tensorflow-cpu",
                    "cp312",
                ): "dcc8afd32930e42d5296b6ee19078b773706830af4ea97fbe503b9f5e0f820cb",
                (
                    "tensorflow-cpu",
                    "cp313",
                ): "05af7c26d35f4de910b5598c7b507e3981831a7b0f47fed9a405d995d51d7793",
                (
                    "tensorflow",
                    "cp310",
                ): "77c6f298e695ea1d283cdd7d30f8d97530cc6e92c1395a9ddbab9771c99233a4",
                (
                    "tensorflow",
                    "cp311",
                ): "9056fbc9ba04235810b71ae6cbd958a196e8804fb53bbcffbf3e23b56155f124",
                (
                    "tensorflow",
                    "cp312",
                ): "b3b95643c4e70eb925839938fb35cbe142f317ec84af6844ee61513713bb13c0",
                (
                    "tensorflow",
                    "cp313",
                ): "e9d8da8dcab9650efb45f032ba70af2f016f907e6e0c6bda29dd101bba945406",
            },
        ),
    ),
)


def find_release(version: str, releases: Iterable[Release] = RELEASES) -> Release:
    """The release called `version`, or `UnsupportedWheelError` with the versions there are."""
    known = tuple(releases)
    for release in known:
        if release.version == version:
            return release
    raise UnsupportedWheelError(
        f"TensorFlow {version} is not supported; supported: "
        + ", ".join(release.version for release in known)
    )


def find_wheel(release: Release, package: str, python_tag: str, machine: str) -> ReleasedWheel:
    """The file of `release` for this package, Python and machine, or `UnsupportedWheelError`."""
    for wheel in release.wheels:
        if (
            wheel.package == package
            and wheel.python_tag == python_tag
            and wheel.platform.endswith(f"_{machine}")
        ):
            return wheel
    raise UnsupportedWheelError(
        f"no released wheel is known of {package} {release.version} for {python_tag} on {machine}; "
        "known: " + ", ".join(sorted(wheel.filename for wheel in release.wheels))
    )
