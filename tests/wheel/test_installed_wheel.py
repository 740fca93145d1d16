# SPDX-License-Identifier: Apache-2.0
"""A wheel in an environment, as pip leaves it: the console command, and another TensorFlow over it.

Made from a small stand-in for a released wheel, with the real package.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import tf_model_pool
from support import fake_release
from tf_model_pool._version import __version__
from tf_model_pool_build.progress import Progress
from tf_model_pool_build.wheel import builder

PACKAGE = Path(tf_model_pool.__file__).resolve().parent
NOT_SOURCES = shutil.ignore_patterns("*.so", "*.json", "bin", "__pycache__")


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return fake_release.default_members(tmp_path_factory.mktemp("libraries"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]) -> Path:
    released = fake_release.write_wheel(tmp_path_factory.mktemp("released"), members)
    project = fake_release.write_project(tmp_path_factory.mktemp("built") / "project")
    shutil.copytree(
        PACKAGE, project / "python" / "tf_model_pool", ignore=NOT_SOURCES, dirs_exist_ok=True
    )
    request = builder.Request(released.input, project, project / "dist")
    return builder.build(request, Progress(quiet=True))


class Environment:
    """A virtual environment without dependencies."""

    def __init__(self, directory: Path) -> None:
        venv.create(directory, symlinks=True)
        self.bin = directory / "bin"

    def pip(self, *arguments: str) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python")]
        command = [*pip, *arguments]
        if arguments[0] == "install":
            command += ["--no-deps", "--no-index", "--disable-pip-version-check"]
        subprocess.run(command, check=True, capture_output=True)

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=self.bin.parent,
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )

    def import_warnings(self) -> str:
        return self.run("python", "-c", "import tf_model_pool").stderr


@pytest.fixture
def environment(tmp_path: Path, wheel: Path) -> Environment:
    made = Environment(tmp_path / "env")
    made.pip("install", str(wheel))
    return made


def write_stock(directory: Path, members: Mapping[str, bytes]) -> Path:
    """A wheel of the distribution `tensorflow`, whose files are of other sizes."""
    info = "tensorflow-9.9.1.dist-info"
    tag = f"{fake_release.PYTHON_TAG}-{fake_release.PYTHON_TAG}-{fake_release.PLATFORM}"
    contents = {
        name: data + b"\n" for name, data in members.items() if name.startswith("tensorflow/")
    }
    contents[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: tensorflow\nVersion: 9.9.1\n"
    contents[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    record = f"{info}/RECORD,,\n"
    for name, data in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    path = directory / f"tensorflow-9.9.1-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**contents, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(name, data)
    return path


def test_the_console_command_is_the_same_as_the_module(environment: Environment) -> None:
    version = environment.run("tf-model-pool", "--version")
    assert (version.returncode, version.stdout, version.stderr) == (0, f"{__version__}\n", "")
    by_name = environment.run("tf-model-pool", "run")
    by_module = environment.run("python", "-m", "tf_model_pool", "run")
    assert (by_name.returncode, by_name.stderr) == (by_module.returncode, by_module.stderr)
    assert environment.run("tf-model-pool", "-h").stdout.startswith("usage: tf-model-pool ")


def test_the_console_command_goes_with_the_wheel(environment: Environment) -> None:
    assert (environment.bin / "tf-model-pool").is_file()
    environment.pip("uninstall", "-y", "tensorflow-cpu")
    assert not (environment.bin / "tf-model-pool").exists()


def test_another_tensorflow_over_the_wheel_is_named_and_the_two_lines_mend_it(
    environment: Environment, wheel: Path, members: dict[str, bytes], tmp_path: Path
) -> None:
    # GIVEN
    assert environment.import_warnings() == ""
    environment.pip("install", str(write_stock(tmp_path, members)))
    # WHEN
    warning = environment.import_warnings()
    # THEN
    assert "tensorflow 9.9.1 was installed over tensorflow-cpu 9.9.0+modelpool" in warning
    lines = [line.strip() for line in warning.splitlines() if line.startswith("    pip ")]
    assert lines == ["pip uninstall -y tensorflow tensorflow-cpu", f"pip install {wheel}"]
    doctor = environment.run("python", "-m", "tf_model_pool", "doctor")
    assert doctor.returncode == 1
    assert [line for line in lines if line not in doctor.stdout] == []
    # AND they do what is said
    for line in lines:
        environment.pip(*shlex.split(line)[1:])
    assert environment.import_warnings() == ""
