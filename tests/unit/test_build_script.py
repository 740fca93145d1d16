# SPDX-License-Identifier: Apache-2.0
"""build.sh says what is wrong before it makes anything."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.fake_python import FakePython


def run(repository: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(repository / "build.sh"), *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("stage", ["wheel", "library", "pool-tests", ""])
def test_a_compiler_that_is_not_there_is_named(repository: Path, stage: str) -> None:
    done = run(repository, *stage.split(), CXX="nosuch")
    assert done.returncode == 1
    assert done.stderr == "error: CXX=nosuch is not a program; install it, or unset CXX\n"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "PYTHON",
            "python9",
            "PYTHON=python9 is not a program; expected an interpreter of Python 3.10 or later",
        ),
        (
            "PACKAGE",
            "tensorflw",
            "PACKAGE=tensorflw: expected tensorflow-cpu, tensorflow or tensorflow-cpu-aws",
        ),
    ],
)
@pytest.mark.parametrize("stage", ["wheel", "library"])
def test_a_variable_with_a_value_that_it_cannot_have_is_named(
    repository: Path, stage: str, variable: str, value: str, said: str
) -> None:
    done = run(repository, stage, **{variable: value})
    assert done.returncode == 1
    assert done.stderr == f"error: {said}\n"


def test_an_unknown_stage_is_named_behind_the_help(repository: Path) -> None:
    done = run(repository, "nothing")
    assert done.returncode == 1
    assert done.stderr.startswith("usage: ./build.sh [STAGE]")
    assert done.stderr.endswith("error: unknown stage: nothing\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("wheel --fast", "error: wheel takes no arguments, got: --fast\n"),
        ("pool-tests A* B*", "error: pool-tests takes one filter, got: A* B*\n"),
    ],
)
def test_arguments_that_a_stage_does_not_take_are_named(
    repository: Path, arguments: str, said: str
) -> None:
    done = run(repository, *arguments.split())
    assert done.returncode == 1
    assert done.stderr == said


def test_tests_that_do_not_exist_are_named_before_a_wheel_is_made(repository: Path) -> None:
    done = run(repository, "test", "tests/unit", "tests/nosuch/test_it.py::test_it")
    assert done.returncode == 1
    assert done.stderr.startswith("error: tests/nosuch/test_it.py::test_it does not exist; ")
    assert "unit/" in done.stderr


# The packages that a fresh machine needs.

PACKAGES = re.compile(r"apt-get install ((?:[a-z][a-z0-9+.-]+[\s`]+)+)")


def named_packages(document: Path) -> set[str]:
    found = PACKAGES.search(document.read_text().replace("(`apt-get\ninstall", "apt-get install"))
    assert found is not None, f"{document} names no packages"
    return set(found[1].replace("`", " ").split())


def run_setup(repository: Path, programs: Path, has_headers: bool) -> str:
    """What ci/setup-debian.sh says to somebody who is not root, if there is a Python alone."""
    for name in ("bash", "dirname", "uname"):
        (programs / name).symlink_to(f"/bin/{name}")
    (programs / "id").write_text("#!/bin/sh\necho 1000\n")
    # Asked for ensurepip and venv, it has them.
    (programs / "python3").write_text(
        f'#!/bin/sh\ncase "$2" in *Python.h*) exit {int(not has_headers)};; esac\n'
    )
    for name in ("id", "python3"):
        (programs / name).chmod(0o755)
    done = subprocess.run(
        [str(repository / "ci/setup-debian.sh")],
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize("has_headers", [False, True])
def test_the_setup_installs_pythons_headers_where_they_are_missing(
    repository: Path, tmp_path: Path, has_headers: bool
) -> None:
    said = run_setup(repository, tmp_path, has_headers)
    assert said.startswith("error: run as root: apt-get install g++ ")
    assert ("python3-dev" in said.split()) != has_headers


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_documents_name_the_packages_that_the_setup_installs(
    repository: Path, document: str
) -> None:
    script = (repository / "ci/setup-debian.sh").read_text()
    wanted = set(re.findall(r"missing\+=\(([^)]+)\)", script))
    assert named_packages(repository / document) == wanted - {"g++-aarch64-linux-gnu", "qemu-user"}


def test_the_quickstart_names_the_packages_of_a_build(repository: Path) -> None:
    assert named_packages(repository / "docs/quickstart.md") == {
        "g++",
        "python3-dev",
        "python3-venv",
    }


def test_a_python_without_a_reader_of_pyproject_is_told_what_to_install(repository: Path) -> None:
    # GIVEN Python 3.10, which has none of its own, and no pip
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(repository / 'python')!r})\n"
        "sys.version_info = (3, 10, 0, 'final', 0)\n"
        "sys.modules['pip'] = None\n"
        "sys.argv = ['requirements', 'build']\n"
        "runpy.run_module('tf_model_pool_build.requirements', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: Python 3.10 reads pyproject.toml with a part of pip, ")
    assert "apt-get install python3-pip" in done.stderr


# The environments, with a stand-in for every Python.

FIRST_WHEEL = "dist/tensorflow_cpu-1.0-cp311-cp311-any.whl"


class Checkout:
    """build.sh in a directory of its own."""

    def __init__(self, repository: Path, root: Path) -> None:
        self.root = root / "checkout"
        (self.root / "dist").mkdir(parents=True)
        (self.root / "ci").mkdir()
        for script in ("build.sh", "ci/lock.sh"):
            shutil.copy(repository / script, self.root / script)
        self.python = FakePython(root / "state")
        self.environment = {**os.environ, "PYTHON": str(self.python.program)}
        self.wheel(FIRST_WHEEL)

    def wheel(self, path: str) -> None:
        """The wheel that the builder makes."""
        self.python.set("wheel", path)
        (self.root / path).write_text(path)

    def make_env(self) -> list[str]:
        """What `./build.sh env` made and installed in .build/env."""
        self.python.asked()
        self.run("env")
        return [line for line in self.python.asked() if ".build/env" in line]

    def run(self, *arguments: str) -> None:
        subprocess.run(
            [str(self.root / "build.sh"), *arguments],
            env=self.environment,
            check=True,
            capture_output=True,
        )


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Checkout:
    return Checkout(repository, tmp_path)


def test_an_environment_is_made_once(checkout: Checkout) -> None:
    made, installed = checkout.make_env()
    assert made.endswith("-m venv .build/env")
    assert installed.endswith(FIRST_WHEEL)
    assert checkout.make_env() == []


@pytest.mark.parametrize(
    "change",
    [
        lambda checkout: checkout.python.set("version", "Python 3.12.1"),
        lambda checkout: checkout.wheel("dist/tensorflow-1.0-cp311-cp311-any.whl"),
    ],
    ids=["python", "distribution"],
)
def test_an_environment_of_another_python_or_distribution_is_made_anew(
    checkout: Checkout, change: Callable[[Checkout], None]
) -> None:
    checkout.make_env()
    change(checkout)
    made, installed = checkout.make_env()
    assert made.endswith("-m venv .build/env")
    assert "--force-reinstall" not in installed


def test_a_newer_wheel_of_the_same_takes_the_place_of_the_other(checkout: Checkout) -> None:
    checkout.make_env()
    checkout.wheel("dist/tensorflow_cpu-1.1-cp311-cp311-any.whl")
    replaced, dependencies = checkout.make_env()
    assert "--force-reinstall --no-deps dist/tensorflow_cpu-1.1" in replaced
    assert "--force-reinstall" not in dependencies


def test_the_stock_environment_gets_the_released_wheel_whose_sum_was_checked(
    checkout: Checkout,
) -> None:
    # GIVEN a wheel that needs no build, and no released wheel in the cache
    checkout.python.answer('"-m tf_model_pool_build.wheel.base "*', "echo /cache/tensorflow.whl")
    checkout.python.answer('"-m pip install "*" --target "*', "mkdir .build/preload")
    # WHEN tests are run that need both environments
    (checkout.root / "tests/bench").mkdir(parents=True)
    checkout.run("test", "tests/bench")
    # THEN
    asked = checkout.python.asked()
    assert any(f"wheel.base {FIRST_WHEEL}" in line for line in asked)
    installed = [line for line in asked if ".build/stock/bin/python -m pip install" in line]
    assert [line.split()[-1] for line in installed] == ["/cache/tensorflow.whl"]


# Two at once, and what a killed one leaves.


def start(checkout: Checkout, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(checkout.root / "build.sh"), *arguments],
        env=checkout.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("stage", ["env", "clean"])
def test_a_stage_that_writes_waits_for_another_and_says_so(checkout: Checkout, stage: str) -> None:
    # GIVEN another build in the same checkout
    checkout.make_env()
    with (checkout.root / ".build/lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # WHEN
        checkout.python.set("version", "Python 3.12.1")
        second = start(checkout, stage)
        assert second.stderr is not None
        said = second.stderr.readline()
        # THEN it says why it does nothing
        assert said == "wait for another build in this checkout, which holds .build/lock\n"
        assert checkout.python.asked() == []
        assert (checkout.root / ".build/env/complete").is_file()
    # AND goes on afterwards
    _, rest = second.communicate(timeout=60)
    assert second.returncode == 0, rest
    assert (checkout.root / ".build").exists() == (stage == "env")


def test_a_build_that_waited_for_a_clean_takes_the_new_lock(checkout: Checkout) -> None:
    checkout.make_env()
    with (checkout.root / ".build/lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = start(checkout, "env")
        assert second.stderr is not None
        assert second.stderr.readline().startswith("wait for ")
        shutil.rmtree(checkout.root / ".build")
        # A third one that came meanwhile.
        (checkout.root / ".build").mkdir()
        with (checkout.root / ".build/lock").open("a") as third:
            fcntl.flock(third, fcntl.LOCK_EX)
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert second.stderr.readline().startswith("wait for ")
    _, rest = second.communicate(timeout=60)
    assert second.returncode == 0, rest


def test_tests_run_without_the_lock(checkout: Checkout) -> None:
    (checkout.root / "tests/unit").mkdir(parents=True)
    checkout.python.answer('"-m pytest "*', "exec flock --nonblock .build/lock true")
    checkout.run("test", "tests/unit")
    assert any("-m pytest" in line for line in checkout.python.asked())


#: A builder in the middle of its work.
BUILDING = """
import contextlib, os, sys
from pathlib import Path
from tf_model_pool.files import replacing
from tf_model_pool_build.workspace import temporary_directory
with contextlib.ExitStack() as stack:
    for place in (".build", ".build/cache"):
        print(stack.enter_context(temporary_directory(Path(place))))
    partial = stack.enter_context(replacing(Path("dist/a.whl")))
    partial.write_text("")
    print(partial, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_build_left_is_removed_and_what_another_uses_is_not(
    checkout: Checkout, repository: Path
) -> None:
    def building() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", BUILDING],
            cwd=checkout.root,
            env={**os.environ, "PYTHONPATH": str(repository / "python")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def uses(process: subprocess.Popen[str]) -> list[bool]:
        assert process.stdout is not None
        return [(checkout.root / process.stdout.readline().strip()).exists() for _ in range(3)]

    with building() as killed, building() as running:
        assert uses(killed) == uses(running) == [True] * 3
        killed.kill()
        killed.wait()
        checkout.make_env()
        left = [
            path.name
            for pattern in (".build/work-*", ".build/cache/work-*", "dist/.*")
            for path in checkout.root.glob(pattern)
        ]
        assert len(left) == 3
        assert [name for name in left if str(running.pid) not in name] == []
        running.communicate()


def test_without_flock_a_build_goes_on(checkout: Checkout, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in Path("/usr/bin").iterdir():
        if program.name != "flock":
            (programs / program.name).symlink_to(program)
    checkout.environment["PATH"] = str(programs)
    assert len(checkout.make_env()) == 2
