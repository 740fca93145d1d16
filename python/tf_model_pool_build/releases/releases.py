# SPDX-License-Identifier: Apache-2.0
"""The table of releases: wheels, what is replaced in them, sources, pins of TensorFlow Serving.

What can be replaced is listed in tf_allocator/binary/hooks.def, which the library is compiled from
too.

Where the facts come from:
- sha256 of wheels: the package index (`pip install --dry-run --report - --no-deps
  tensorflow-cpu==2.21.0` shows them);
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
from collections.abc import Iterable, Mapping
from pathlib import Path

from tf_model_pool_build.architecture import Binding
from tf_model_pool_build.errors import BuildError, CheckoutError, UnsupportedWheelError

FRAMEWORK = "tensorflow/libtensorflow_framework.so.2"
CC = "tensorflow/libtensorflow_cc.so.2"
INCLUDE = "tensorflow/include/"
#: The distribution of the released wheel -> the directory-safe form that file names use. Those
#: for the CPU alone come first: where nobody names one, it is the first that the machine has.
PACKAGES: Mapping[str, str] = {
    "tensorflow-cpu": "tensorflow_cpu",
    "tensorflow-cpu-aws": "tensorflow_cpu_aws",
    "tensorflow": "tensorflow",
}


@dataclasses.dataclass(frozen=True)
class ReplacedFunction:
    """A function of TensorFlow that libtf_model_pool.so defines in its place.

    Attributes:
        hook: its id in hooks.def; the CMake variables `TF_MODEL_POOL_<hook>_SYMBOL`, `_OFFSET` and
            `_CODE` get its mangled name, and the original's address and first bytes.
        name: for people.
        library: the member of the wheel that exports it.
        prefix: start of the mangled name; the rest holds Abseil's inline namespace, which
            changes with every Abseil release.
        binding: how TensorFlow must reach it. If it has its address instead, it would never see
            ours.
    """

    hook: str
    name: str
    library: str
    prefix: str
    binding: Binding


HOOKS_FILE = Path(__file__).resolve().parents[3] / "tf_allocator" / "binary" / "hooks.def"
_LIBRARIES = {"FRAMEWORK": FRAMEWORK, "CC": CC}
_ROW = re.compile(
    r"^(?:MEMBER_HOOK\((?P<member_id>\w+),\s*(?P<member>[\w:]+)"
    r"|FUNCTION_HOOK\((?P<id>\w+),\s*(?P<library>\w+),\s*\"(?P<name>[^\"]+)\"),"
    r"\s*(?P<mangled>(?:\"\w+\"\s*)+)\)$",
    re.MULTILINE,
)


def read_hooks(text: str) -> dict[str, ReplacedFunction]:
    """The rows of hooks.def by their id, in its order.

    Raises:
        ValueError: a row is not as hooks.def says that rows are.
    """
    rows = list(_ROW.finditer(text))
    begun = re.findall(r"^(?:MEMBER|FUNCTION)_HOOK\((\w+)", text, re.MULTILINE)
    ids = [row["id"] or row["member_id"] for row in rows]
    if ids != begun or len(set(ids)) != len(ids):
        raise ValueError(f"{HOOKS_FILE.name}: the rows {begun} were read as {ids}")
    return {
        hook: ReplacedFunction(
            hook=hook,
            name=f"tensorflow::{row['name'] or row['member']}",
            library=_LIBRARIES[row["library"]] if row["id"] else FRAMEWORK,
            prefix="".join(re.findall(r"\w+", row["mangled"])),
            binding=Binding.CALL if row["id"] else Binding.VTABLE,
        )
        for hook, row in zip(ids, rows, strict=True)
    }


def _own_hooks() -> dict[str, ReplacedFunction]:
    try:
        return read_hooks(HOOKS_FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BuildError(
            f"{HOOKS_FILE} is missing; expected a whole checkout of this project: build.sh, "
            "patches/, python/ and tf_allocator/"
        ) from None


HOOKS: Mapping[str, ReplacedFunction] = _own_hooks()
#: `Release.functions` says which of these a release has.
LOAD_BUNDLE = HOOKS["LOAD_BUNDLE"]
LOAD_LITE = HOOKS["LOAD_LITE"]
LOAD_META_GRAPH = HOOKS["LOAD_META_GRAPH"]
#: In every release.
REPLACED_FUNCTIONS: tuple[ReplacedFunction, ...] = tuple(
    function
    for function in HOOKS.values()
    if function not in (LOAD_BUNDLE, LOAD_LITE, LOAD_META_GRAPH)
)


@dataclasses.dataclass(frozen=True)
class ReleasedWheel:
    """One file of a release, as the package index has it.

    `platform` is as the file's name has it: one tag, or several for the same, joined by dots.
    """

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


@dataclasses.dataclass(frozen=True)
class ServingPin:
    """The TensorFlow that a tag of TensorFlow Serving is built with.

    Attributes:
        tag: of TensorFlow Serving.
        commit: of TensorFlow, as its WORKSPACE has it.
        tensorflow: the release of that commit; if it is none's, the one it is nearest to.
        is_release: whether it is that release's very commit.
        bazel: the version that its WORKSPACE asks for and its Dockerfile installs. There is no
            .bazelversion that would tell bazelisk.
        note: what to know if it is not, or if the release has a successor.
    """

    tag: str
    commit: str
    tensorflow: str
    is_release: bool
    bazel: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Release:
    """What all wheels of one TensorFlow version have in common.

    Attributes:
        version: of the wheels, as the package index writes it: `2.21.0`, or `2.22.0rc0`.
        patches: directory under patches/.
        compile_flags: what fixes TensorFlow's ABI; `tf.sysconfig.get_compile_flags()` of the
            release, without the include directory and the language standard.
        wheels: the files that the builder knows.
        functions: what it replaces in them.
        functions_on: the same for an architecture that has others bound by symbol.
        source: what the release is built from; None if nobody may.
        serving: the tags of TensorFlow Serving that its series is for.
    """

    version: str
    patches: str
    compile_flags: str
    wheels: tuple[ReleasedWheel, ...]
    functions: tuple[ReplacedFunction, ...] = (*REPLACED_FUNCTIONS, LOAD_BUNDLE, LOAD_LITE)
    functions_on: Mapping[str, tuple[ReplacedFunction, ...]] = dataclasses.field(
        default_factory=dict
    )
    source: TensorFlowSource | None = None
    serving: tuple[ServingPin, ...] = ()

    def functions_for(self, machine: str) -> tuple[ReplacedFunction, ...]:
        """What is replaced in the wheels for `machine`, e.g. `x86_64`."""
        return self.functions_on.get(machine, self.functions)

    @property
    def is_final(self) -> bool:
        """Whether it is no pre-release."""
        return "rc" not in self.version

    @property
    def own_version(self) -> str:
        """What TensorFlow itself says (`TF_Version`): `2.22.0-rc0` for the wheel's `2.22.0rc0`."""
        return self.version.replace("rc", "-rc")


_TO_311 = ("3.9", "3.10", "3.11")
_TO_312 = (*_TO_311, "3.12")
_TO_313 = (*_TO_312, "3.13")
_CXX11_ABI = "-D_GLIBCXX_USE_CXX11_ABI=1 -DEIGEN_MAX_ALIGN_BYTES=64"
_MANYLINUX_2_27 = "manylinux_2_27"
_MANYLINUX_2_17 = "manylinux_2_17.manylinux2014"
_Sums = Mapping[str, Mapping[str, str]]


def _wheels(
    version: str, manylinux: str, x86_64: _Sums, aarch64: _Sums
) -> tuple[ReleasedWheel, ...]:
    return tuple(
        ReleasedWheel(
            package,
            version,
            python_tag,
            ".".join(f"{tag}_{architecture}" for tag in manylinux.split(".")),
            sha256,
        )
        for architecture, sums in (("x86_64", x86_64), ("aarch64", aarch64))
        for package, by_tag in sums.items()
        for python_tag, sha256 in by_tag.items()
    )


RELEASES: tuple[Release, ...] = (
    Release(
        version="2.22.0rc0",
        patches="v2.22",
        compile_flags=_CXX11_ABI,
        wheels=_wheels(
            "2.22.0rc0",
            _MANYLINUX_2_27,
            {
                "tensorflow-cpu": {
                    "cp310": "a5855cf464e0490df57a8c86f9e02e9fd520d09e4c2a4ebc934106fd87efee1d",
                    "cp311": "9ae0b6e770cc6a60dfd52d86b4737e78ed8858719994c742a9e3fc7999a5e2ee",
                    "cp312": "ebe26dfeca9fa0d80509515a01bf629c15b4a3764799943847f698164af9e787",
                    "cp313": "8fc8f18860cb2129718637c85d14e53c2fe45a4fb5f7ede68c6445016b66a375",
                    "cp314": "68852f58f872a599db05479a47ac642b65b9ac3a37119a5fd63be30f7c98be25",
                },
                "tensorflow": {
                    "cp310": "f3667f4f5d26c71e3e773b9cbca03443091b2b65c31e0ecb6c4e750a7d300299",
                    "cp311": "b5bf07b0c7b834eb3dfe35aacb94a1b03b1b6e1a54a18bcb562b0512f2e26e09",
                    "cp312": "525b0ed004a1e1373a329e84aca8329c89556e89731da7ba9f4d5025b2d6ad22",
                    "cp313": "c3910219e57acf584437376433e020e6f662c0de1c9862819f62b863e2149da8",
                    "cp314": "ce5a28251457053a01e6d9acba03452257b7da01105d98ad16718700fe445deb",
                },
            },
            aarch64={
                "tensorflow": {
                    "cp310": "80696722effe8be39831612fbfbe2821e56bfcdbe775341aa61b716cdaf595aa",
                    "cp311": "3faf349bb14e71473f1ee87d081b973892ccfce0268aed12ce133767a5edbc0c",
                    "cp312": "f9875aebca660496ee7a3cfa058a2a741dcd3eccb9d88a1afdeb551d2109092a",
                    "cp313": "1c9f5f845ff306372828bf081a7367a771cbd6cb9d0ae1350bf3463fb2c849a5",
                    "cp314": "1ec9395ba9fa69a03deba4f30db3b923eb8c8e8797dbef520ec732020b98e35c",
                },
            },
        ),
    ),
    Release(
        version="2.21.0",
        patches="v2.21",
        compile_flags=_CXX11_ABI,
        wheels=_wheels(
            "2.21.0",
            _MANYLINUX_2_27,
            {
                "tensorflow-cpu": {
                    "cp310": "d143e92f5c0661cdfa26eaca8f73cd2efd0ec53a68af8dec82f584ba8eb14b83",
                    "cp311": "2b847d217b02ee7731ed91431daf3250daa0196c3c94614d23be27232e6e5b6c",
                    "cp312": "dcc8afd32930e42d5296b6ee19078b773706830af4ea97fbe503b9f5e0f820cb",
                    "cp313": "05af7c26d35f4de910b5598c7b507e3981831a7b0f47fed9a405d995d51d7793",
                },
                "tensorflow": {
                    "cp310": "77c6f298e695ea1d283cdd7d30f8d97530cc6e92c1395a9ddbab9771c99233a4",
                    "cp311": "9056fbc9ba04235810b71ae6cbd958a196e8804fb53bbcffbf3e23b56155f124",
                    "cp312": "b3b95643c4e70eb925839938fb35cbe142f317ec84af6844ee61513713bb13c0",
                    "cp313": "e9d8da8dcab9650efb45f032ba70af2f016f907e6e0c6bda29dd101bba945406",
                },
            },
            aarch64={
                "tensorflow": {
                    "cp310": "7c97938b25cf70c80ae8619931f85abcdee2ab2eb256c2051202edb3b89e9a5d",
                    "cp311": "4b24aca16d527a3cf1c37f720c04c484c3d20f4d0fdfa98632ac8b9f3be6eb5c",
                    "cp312": "b07d15737406533898e36c7ef7944b1be18e9028dc521b9229952c537bbc5552",
                    "cp313": "a10abdfb8b1189210c251021a3f153b7ccc52a8e6521351f3dc3331e8ba593e0",
                },
            },
        ),
        source=TensorFlowSource(
            "2.21.0",
            "ef3568bb4865d6c1b2564fb5689c19b6b9a5311572cd1f2ff9198636a8520921",
            _TO_313,
            wheel_target=True,
            pywrap=True,
        ),
    ),
    Release(
        version="2.20.0",
        patches="v2.20",
        compile_flags=_CXX11_ABI,
        wheels=_wheels(
            "2.20.0",
            _MANYLINUX_2_17,
            {
                "tensorflow-cpu": {
                    "cp310": "1a3ef238410543ee884b64d222775727504407395785d3719a9ee8d016d1c583",
                    "cp311": "cf756bbe2d256e942ab5d0ad2c858fb40017581494febdb4387c149b1afde780",
                    "cp312": "c7a9224185818094ed95c4e114d3efe77241db35fbf0b75251fb2bf6222dd6a7",
                    "cp313": "da6e7791e5e10ec84e6225c45e04fee05f33d7b828c9b61cc905f4146f7c64b5",
                },
                "tensorflow": {
                    "cp310": "7abd7f3a010e0d354dc804182372779a722d474c4d8a3db8f4a3f5baef2a591e",
                    "cp311": "481499fd0f824583de8945be61d5e827898cdaa4f5ea1bc2cc28ca2ccff8229e",
                    "cp312": "25265b0bc527e0d54b1e9cc60c44a24f44a809fe27666b905f0466471f9c52ec",
                    "cp313": "5fa3729b0126f75a99882b89fb7d536515721eda8014a63e259e780ba0a37372",
                },
            },
            aarch64={
                "tensorflow": {
                    "cp310": "02a0293d94f5c8b7125b66abf622cc4854a33ae9d618a0d41309f95e091bbaea",
                    "cp311": "3e9568c8efcb05c0266be223e3269c62ebf7ad3498f156438311735f6fa5ced5",
                    "cp312": "2bfbfb3dd0e22bffc45fe1e922390d27753e99261fab8a882e802cf98a0e078f",
                    "cp313": "47c88e05a07f1ead4977b4894b3ecd4d8075c40191065afc4fd9355c9db3d926",
                },
            },
        ),
        source=TensorFlowSource(
            "2.20.0",
            "a640d1f97be316a09301dfc9347e3d929ad4d9a2336e3ca23c32c93b0ff7e5d0",
            _TO_313,
            wheel_target=True,
            pywrap=True,
        ),
        serving=(
            ServingPin(
                "2.20.0", "72fbba3d20f4616d7312b5e2b7f79daf6e82f2fa", "2.20.0", True, "7.4.1"
            ),
        ),
    ),
    Release(
        version="2.19.1",
        patches="v2.19",
        compile_flags=_CXX11_ABI,
        wheels=_wheels(
            "2.19.1",
            _MANYLINUX_2_17,
            {
                "tensorflow-cpu": {
                    "cp310": "8ae7209194aebf879cb4d0504f39e5cde04896ddbdef4acde3fd0b408ac88bea",
                    "cp311": "0b6d72bd09c267e7573757bd309f5b1e2cdb02577339991da751f3a1411e4dae",
                    "cp312": "2cb4b20fa86b04c166db1616fd466d09ec850cc3b47607cf12225469e750c476",
                },
                "tensorflow": {
                    "cp310": "11377d4cecdc665515e370524b650a8ceb80b461f40f5e63993ed27d0ef931da",
                    "cp311": "8e5524eb492160576e5eeea9bb472ddc653123503f2290f83123d5ac9545750e",
                    "cp312": "35a6950f3fee0ad2d1668241d31684676f2e6eceb613cbeef960ea22014ef8fb",
                },
            },
            aarch64={
                "tensorflow": {
                    "cp310": "9077404d1928ee58bfb82ea1b0fce25353420338c259742227c27c4e00377f4b",
                    "cp311": "22deedc251837f2382d2b287c705705cb089bfaf79b2274b78c08740e02bf188",
                    "cp312": "4c0e78b6100545fd90934c557f1ce802e6a9a7fdb031025efc298efb4aa2e3bb",
                },
            },
        ),
        source=TensorFlowSource(
            "2.19.1",
            "fcfb3e88ab3eebdbab98a03c869a4d2616d52ea166c8d8021de1ef921b47be8d",
            _TO_312,
            wheel_target=True,
            pywrap=True,
        ),
        serving=(
            ServingPin(
                "2.19.1", "f4247ebb6f9e7421f38c3f01a9a5d5cd54bd24fd", "2.19.1", True, "6.5.0"
            ),
        ),
    ),
    Release(
        version="2.18.1",
        patches="v2.18",
        compile_flags=_CXX11_ABI,
        wheels=_wheels(
            "2.18.1",
            _MANYLINUX_2_17,
            {
                "tensorflow-cpu": {
                    "cp310": "357506565b05154b4b1fa5f94cd2b34c74d8a6ed64091385a71c990626321164",
                    "cp311": "810c75d7149d2da0cb2092187817b0dcabb80728ca9f9cf3a61f3f42fadd1298",
                    "cp312": "8e0f27dbd92c6d380ae0ccfe73c7343f65c127b0aa98467c30c2e71eda7c76a4",
                },
                "tensorflow": {
                    "cp310": "1f929842999d60e7da67743ae5204b477259f3b771c02e5e437d232267e49f18",
                    "cp311": "c9f87e5d2a680a4595f5dc30daf6bbaec9d4129b46d7ef1b2af63c46ac7d2828",
                    "cp312": "442d2a774811789a8ad948e7286cb950fe3d87d3754e8cc6449d53b03dbfdaa6",
                },
            },
            aarch64={
                "tensorflow": {
                    "cp310": "2dd7284768f5a6b10e41a700e8141de70756dc62ed5d0b93360d131ccc0a6ba8",
                    "cp311": "8a6485edd2148f70d011dbd1d8dc2c775e91774a5a159466e83d0d1f21580944",
                    "cp312": "1ba52b9c06ab8102b31e50acfaf56899b923171e603c8942f2bfeb181d6bb59e",
                },
            },
        ),
        source=TensorFlowSource(
            "2.18.1",
            "467c512b631e72ad5c9d5c16b23669bcf89675de630cfbb58f9dde746d34afa8",
            _TO_312,
            wheel_target=True,
            pywrap=False,
        ),
        serving=(
            ServingPin(
                "2.18.1", "cb64295ec7308f770b22db6047a1e755b35b7bee", "2.18.1", True, "6.5.0"
            ),
        ),
    ),
    Release(
        version="2.17.1",
        patches="v2.17",
        compile_flags=_CXX11_ABI,
        wheels=_wheels(
            "2.17.1",
            _MANYLINUX_2_17,
            {
                "tensorflow-cpu": {
                    "cp310": "92aba7b37c89596a783766f9b0822c710e3b674a8cd29598656a84df4ae61364",
                    "cp311": "4935d35d15924602605c839cb6cd5a578f89f626d8736f62065fe3a089b63b6f",
                    "cp312": "10567f927153f9789e7e7c92bac27f13ca22dfa0a60dc03a831343c96f4efb9e",
                },
                "tensorflow": {
                    "cp310": "d618cc21b0adf695fc8b4323f56ccd17c1408379422e1a177481d4fd8523fa8e",
                    "cp311": "68841e17e573301d8ba9192f929b8096b0b341567cb81414096305c723de68d0",
                    "cp312": "0c3452ab09940cbc3be896641b256855ba92154b79a90c864c5b2be79db78a64",
                },
            },
            aarch64={
                "tensorflow": {
                    "cp310": "8aa202e17894dcb0582283e5a5c703391d793ccce11c5c02b1fe8f839ae09f3c",
                    "cp311": "bc41bc3e31d205dcf6e4b8afc0514de05445303d93fade03549085ef8c45a2b2",
                    "cp312": "695741b80ea9b2603a8d3f423051476c02a9cf48f4721d18c4dafbe0a8a5ca91",
                },
            },
        ),
        source=TensorFlowSource(
            "2.17.1",
            "2d3cfb48510f92f3a52fb05b820481c6f066a342a9f5296fe26d72c4ea757700",
            _TO_312,
            wheel_target=True,
            pywrap=False,
        ),
        serving=(
            ServingPin(
                "2.17.1",
                "ad6d8cc177d0c868982e39e0823d0efbfb95f04c",
                "2.17.0",
                True,
                "6.4.0",
                "TensorFlow 2.17.0, although the tag is called 2.17.1; the series was made for "
                "2.17.1",
            ),
        ),
    ),
    Release(
        version="2.16.2",
        functions=(*REPLACED_FUNCTIONS, LOAD_META_GRAPH),
        patches="v2.16",
        compile_flags=_CXX11_ABI,
        wheels=_wheels(
            "2.16.2",
            _MANYLINUX_2_17,
            {
                "tensorflow-cpu": {
                    "cp310": "58f4f8e3a3304110b9d3d24d3b1f73e690f9b5bf88738b88d2f1e63ba337fb8c",
                    "cp311": "c855cb6bf05d32dd5928086b03a5f6b4189b63c22b95e017703cbee4291023ca",
                    "cp312": "8ec09acc09534017e02318456f77e96947b2ab4d24d2eb580541405c45ea3b70",
                },
                "tensorflow": {
                    "cp310": "4ed24662a3625b2eaa89a02ea177aadad840d6eb91445091fe1f7ad5fa528db3",
                    "cp311": "d8798dea8e2281b4a0b569d9c00e7949c0090509be363da271e1ef21828bffae",
                    "cp312": "5badc6744672a3181c012b6ab2815975be34d0573db3b561383634acc0d46a55",
                },
            },
            aarch64={
                "tensorflow": {
                    "cp310": "7a0aee52797cd58870e3bb9c2b4bc0fc2a57eae29a334282bcc08943ca582718",
                    "cp311": "8728b12bc86941d90d0a927c40d4b21f8820964a80439a7c45f850eb37d57067",
                    "cp312": "e7df529f8db271d3def80538aa7fcd6f5abe306f7b01cb5b580138df68afb499",
                },
            },
        ),
        source=TensorFlowSource(
            "2.16.2",
            "023849bf253080cb1e4f09386f5eb900492da2288274086ed6cfecd6d99da9eb",
            _TO_312,
            wheel_target=False,
            pywrap=False,
        ),
        serving=(
            ServingPin(
                "2.16.1",
                "5bc9d26649cca274750ad3625bd93422617eed4b",
                "2.16.1",
                True,
                "6.4.0",
                "TensorFlow 2.16.1; the series was made for 2.16.2",
            ),
        ),
    ),
    Release(
        version="2.15.1",
        functions=(*REPLACED_FUNCTIONS, LOAD_BUNDLE),
        functions_on={"aarch64": (*REPLACED_FUNCTIONS, LOAD_META_GRAPH)},
        patches="v2.15",
        compile_flags=_CXX11_ABI,
        wheels=_wheels(
            "2.15.1",
            _MANYLINUX_2_17,
            {
                "tensorflow-cpu": {
                    "cp310": "ba9503db2c5357ea21938555323581fbdabf3d051b6bc1b5f73c5b0ae034d077",
                    "cp311": "54660c074d7241a503e81edfd9f5ef5af88f64051b72e2945f26318c790f2d26",
                },
                "tensorflow": {
                    "cp310": "ea290e435464cf0794f657b48786e5fa413362abe55ed771c172c25980d070ce",
                    "cp311": "bb0edd69103c154245c5f209f0507355cc68ba7e4de350084bc31edc562478e4",
                },
            },
            aarch64={
                "tensorflow-cpu-aws": {
                    "cp310": "c781d95cb8c58d47cb012b7b4e77b2f3e8d4d47b45926bc54976506fa0c037cc",
                    "cp311": "d4c3a3a9363bf42999adedbbd514e3a133be2d62f61fee9cfa46aaefb087c09e",
                },
            },
        ),
        source=TensorFlowSource(
            "2.15.1",
            "f36416d831f06fe866e149c7cd752da410a11178b01ff5620e9f265511ed57cf",
            _TO_311,
            wheel_target=False,
            pywrap=False,
        ),
        serving=(
            ServingPin(
                "2.15.1",
                "5b2454e3de818c7ac24cf7fbb8d82aed83a577ca",
                "2.15.1",
                False,
                "6.4.0",
                "a commit of no release; the series was made for 2.15.1, which is 63f5a65c7cd",
            ),
        ),
    ),
)


#: What is built if nobody says which.
DEFAULT = next(release for release in RELEASES if release.is_final)
TENSORFLOW_SOURCES = tuple(one.source for one in RELEASES if one.source is not None)
SERVING_PINS = tuple(pin for one in RELEASES for pin in one.serving)


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


def find_wheel(
    release: Release, package: str | None, python_tag: str, machine: str
) -> ReleasedWheel:
    """The file of `release` for this package, Python and machine, or `UnsupportedWheelError`.

    None is the first of `PACKAGES` that there is.
    """
    for name in PACKAGES if package is None else (package,):
        for wheel in release.wheels:
            if (
                wheel.package == name
                and wheel.python_tag == python_tag
                and wheel.platform.endswith(f"_{machine}")
            ):
                return wheel
    raise UnsupportedWheelError(
        f"no released wheel is known of {package or 'TensorFlow'} {release.version} for "
        f"{python_tag} on {machine}; known: "
        + ", ".join(sorted(wheel.filename for wheel in release.wheels))
    )


def version_key(version: str) -> tuple[int, ...]:
    """Sorts versions by age: `2.21.0`, `2.22.0rc0`, `2.22.0`. Raises `ValueError`."""
    final, _, candidate = version.partition("rc")
    return (*map(int, final.split(".")), *((0, int(candidate)) if candidate else (1, 0)))


def minor_of(version: str) -> str:
    """`2.20` for `2.20.0`, `v2.20.0` or `2.20.0rc0`. Raises `CheckoutError` for anything else."""
    match = re.fullmatch(r"v?(\d+\.\d+)(?:\.\d+(?:rc\d+)?)?", version)
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
