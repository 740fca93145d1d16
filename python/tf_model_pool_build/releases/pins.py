# SPDX-License-Identifier: Apache-2.0
"""Which TensorFlow people build from, and which series fits it. Data only.

Where the facts come from:
- commits of releases: `tf.version.GIT_VERSION` of the released tensorflow-cpu wheels
  (`v2.20.0-rc0-4-g72fbba3d20f`); 2.16.1's is the one that its users quote, 2.21.0's in full that of
  tensorflow/model-analysis' WORKSPACE, which agrees with the wheel's;
- what TensorFlow Serving pins: WORKSPACE of its tags;
- sha256 of archives: spack-packages' py_tensorflow and Homebrew's libtensorflow (2.21.0), both for
  the archive of the tag. The archive of the commit has another top directory and another sum.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from tf_model_pool_build.errors import CheckoutError

_ARCHIVE = "https://github.com/tensorflow/tensorflow/archive/refs/tags/v{version}.tar.gz"


@dataclasses.dataclass(frozen=True)
class TensorFlowSource:
    """The sources of a TensorFlow release.

    Attributes:
        version: e.g. `2.20.0`.
        sha256: of the archive of its tag.
        pythons: versions that the release can be built for.
        wheel_target: whether Bazel itself makes the wheel (2.17 and later); before that it makes
            a program that does.
        pywrap: whether the documented command sets `USE_PYWRAP_RULES`.
    """

    version: str
    sha256: str
    pythons: tuple[str, ...]
    wheel_target: bool
    pywrap: bool

    @property
    def url(self) -> str:
        """The archive of the release's tag."""
        return _ARCHIVE.format(version=self.version)

    @property
    def directory(self) -> str:
        """The archive's top directory."""
        return f"tensorflow-{self.version}"


_TO_311 = ("3.9", "3.10", "3.11")
_TO_312 = (*_TO_311, "3.12")
_TO_313 = (*_TO_312, "3.13")

TENSORFLOW_SOURCES: tuple[TensorFlowSource, ...] = (
    TensorFlowSource(
        "2.21.0",
        "ef3568bb4865d6c1b2564fb5689c19b6b9a5311572cd1f2ff9198636a8520921",
        _TO_313,
        wheel_target=True,
        pywrap=True,
    ),
    TensorFlowSource(
        "2.20.0",
        "a640d1f97be316a09301dfc9347e3d929ad4d9a2336e3ca23c32c93b0ff7e5d0",
        _TO_313,
        wheel_target=True,
        pywrap=True,
    ),
    TensorFlowSource(
        "2.19.1",
        "fcfb3e88ab3eebdbab98a03c869a4d2616d52ea166c8d8021de1ef921b47be8d",
        _TO_312,
        wheel_target=True,
        pywrap=True,
    ),
    TensorFlowSource(
        "2.18.1",
        "467c512b631e72ad5c9d5c16b23669bcf89675de630cfbb58f9dde746d34afa8",
        _TO_312,
        wheel_target=True,
        pywrap=False,
    ),
    TensorFlowSource(
        "2.17.1",
        "2d3cfb48510f92f3a52fb05b820481c6f066a342a9f5296fe26d72c4ea757700",
        _TO_312,
        wheel_target=True,
        pywrap=False,
    ),
    TensorFlowSource(
        "2.16.2",
        "023849bf253080cb1e4f09386f5eb900492da2288274086ed6cfecd6d99da9eb",
        _TO_312,
        wheel_target=False,
        pywrap=False,
    ),
    TensorFlowSource(
        "2.15.1",
        "f36416d831f06fe866e149c7cd752da410a11178b01ff5620e9f265511ed57cf",
        _TO_311,
        wheel_target=False,
        pywrap=False,
    ),
)


@dataclasses.dataclass(frozen=True)
class ServingPin:
    """The TensorFlow that a tag of TensorFlow Serving is built with.

    Attributes:
        tag: of TensorFlow Serving.
        commit: of TensorFlow, as its WORKSPACE has it.
        tensorflow: the release of that commit; where it is none's, the one it is nearest to.
        is_release: whether it is that release's very commit.
        bazel: the version that its WORKSPACE asks for and its Dockerfile installs. There is no
            .bazelversion that would tell bazelisk.
        note: what to know where it is not, or where the release has a successor.
    """

    tag: str
    commit: str
    tensorflow: str
    is_release: bool
    bazel: str
    note: str = ""


SERVING_PINS: tuple[ServingPin, ...] = (
    ServingPin("2.20.0", "72fbba3d20f4616d7312b5e2b7f79daf6e82f2fa", "2.20.0", True, "7.4.1"),
    ServingPin("2.19.1", "f4247ebb6f9e7421f38c3f01a9a5d5cd54bd24fd", "2.19.1", True, "6.5.0"),
    ServingPin("2.18.1", "cb64295ec7308f770b22db6047a1e755b35b7bee", "2.18.1", True, "6.5.0"),
    ServingPin(
        "2.17.1",
        "ad6d8cc177d0c868982e39e0823d0efbfb95f04c",
        "2.17.0",
        True,
        "6.4.0",
        "TensorFlow 2.17.0, although the tag is called 2.17.1; the series was made for 2.17.1",
    ),
    ServingPin(
        "2.16.1",
        "5bc9d26649cca274750ad3625bd93422617eed4b",
        "2.16.1",
        True,
        "6.4.0",
        "TensorFlow 2.16.1; the series was made for 2.16.2",
    ),
    ServingPin(
        "2.15.1",
        "5b2454e3de818c7ac24cf7fbb8d82aed83a577ca",
        "2.15.1",
        False,
        "6.4.0",
        "a commit of no release; the series was made for 2.15.1, which is 63f5a65c7cd",
    ),
)


def minor_of(version: str) -> str:
    """`2.20` for `2.20.0` or `v2.20.0`. Raises `CheckoutError` for anything else."""
    match = re.fullmatch(r"v?(\d+\.\d+)(?:\.\d+)?", version)
    if not match:
        raise CheckoutError(f"{version!r} is not a version of TensorFlow; expected e.g. 2.20.0")
    return match[1]


def serving_pin(commit: str) -> ServingPin | None:
    """The tag that pins this commit of TensorFlow; None for no known one."""
    return next((pin for pin in SERVING_PINS if pin.commit == commit), None)


def tensorflow_source(
    version: str, table: Iterable[TensorFlowSource] = TENSORFLOW_SOURCES
) -> TensorFlowSource:
    """The sources of a release, `2.20.0` or `v2.20.0`. Raises `CheckoutError` for others."""
    known = tuple(table)
    for source in known:
        if source.version == version.removeprefix("v"):
            return source
    raise CheckoutError(
        f"no source archive is known of TensorFlow {version}; known: "
        + ", ".join(f"v{source.version}" for source in known)
        + ". Pass a directory with its sources instead"
    )


def source_like(
    version: str, table: Iterable[TensorFlowSource] = TENSORFLOW_SOURCES
) -> TensorFlowSource:
    """The release of the same minor version, which is built in the same way."""
    known = tuple(table)
    minor = minor_of(version)
    for source in known:
        if minor_of(source.version) == minor:
            return source
    raise CheckoutError(
        f"TensorFlow {version} is not supported; supported: "
        + ", ".join(sorted({minor_of(source.version) for source in known}))
    )
