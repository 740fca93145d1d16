# SPDX-License-Identifier: Apache-2.0
"""A project in small: tf_allocator/, a series of three patches, and the sources that it fits.

The series is made by git from the sources, as the real one is, and keeps every rule.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

from tf_model_pool_build.series import checkout, listing

RELEASE = "v9.9"
HEADER = "tensorflow/core/common_runtime/process_state.h"
SOURCE = "tensorflow/core/kernels/save_restore_tensor.cc"
SHARED = "Call-the-pools.patch"

TF_ALLOCATOR = {
    "BUILD": 'cc_library(name = "pool", srcs = ["pool/a.cc"], hdrs = ["pool/a.h"])\n',
    "CMakeLists.txt": "# not part of a build of TensorFlow\n",
    "pool/a.h": "int A();\n",
    "pool/a.cc": '#include "tf_allocator/pool/a.h"\nint A() { return 1; }\n',
    "pool/a_test.cc": "// a test\n",
}
TENSORFLOW = {
    HEADER: "class ProcessState {\n public:\n  void EnableNUMA();\n"
    + "".join(f"  void Member{number}();\n" for number in range(12))
    + "};\n",
    SOURCE: "".join(f"// line {number}\n" for number in range(30)),
    "tensorflow/other.cc": "// not changed\n",
}
TRAILERS = """\
Why-Patch: the class is TensorFlow's.
Upstream: not submitted.
Drop-When: never.
Tested-By: tests/test_a.py
"""
MESSAGES = {
    HEADER: f"Declare the pools\n\nNothing declares them.\n\n{TRAILERS}",
    SOURCE: f"Call the pools\n\nNothing calls them.\n\n{TRAILERS}",
}


def git(directory: Path, *arguments: str, text: str = "") -> str:
    """Runs git as somebody with an identity; returns its output."""
    command = ["git", "-c", "user.name=Somebody Élse", "-c", "user.email=somebody@example.org"]
    command += ["-C", str(directory), *arguments]
    return subprocess.run(
        command, input=text, check=True, capture_output=True, encoding="utf-8"
    ).stdout


def write(directory: Path, files: dict[str, str]) -> Path:
    """Writes files below `directory`."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, newline="\n")
    return directory


def commit(directory: Path, message: str) -> None:
    """Commits everything."""
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--file=-", text=message)


def new_checkout(directory: Path) -> Path:
    """TensorFlow's sources as a git checkout with one commit."""
    write(directory, TENSORFLOW)
    git(directory, "init", "--quiet")
    commit(directory, "base")
    return directory


def edit(directory: Path, name: str, old: str, new: str) -> None:
    """Replaces the one `old` of a file."""
    path = directory / name
    text = path.read_bytes().decode()
    assert text.count(old) == 1, f"{name} has {text.count(old)} times {old!r}"
    path.write_bytes(text.replace(old, new).encode())


@dataclasses.dataclass(frozen=True)
class Project:
    """The project's root, and the sources that its series fits."""

    root: Path
    source: Path

    @property
    def patches(self) -> Path:
        return self.root / "patches"

    def series(self) -> listing.Series:
        return listing.read(self.patches, RELEASE).with_sources()

    def patch(self, name: str) -> Path:
        """The file of patches/ that ends in `name`."""
        (path,) = self.patches.glob(f"*/*{name}")
        return path

    def record_sources(self) -> None:
        """Writes patches/sources.json to agree with the series."""
        files = {
            path: {"hash": value, "origin": "release"}
            for path, value in self.series().first_hashes().items()
        }
        record = {
            "origins": {"release": {"short": "release", "what": "the release"}},
            "releases": {RELEASE: {"files": files, "verified": ""}},
        }
        (self.patches / "sources.json").write_text(json.dumps(record))


def make(root: Path) -> Project:
    """Makes the project below `root`."""
    project = Project(root / "project", write(root / "tensorflow", TENSORFLOW))
    write(project.root, {f"tf_allocator/{name}": text for name, text in TF_ALLOCATOR.items()})
    write(project.root, {"tests/test_a.py": "", "tests/series/test_generated.py": ""})
    series_file = f"patches/{RELEASE}/series"
    work = new_checkout(root / "work")
    base = git(work, "rev-parse", "HEAD").strip()
    edit(work, HEADER, "  void Member5();\n", "  void Member5();\n  int AcquireModelPool();\n")
    commit(work, MESSAGES[HEADER])
    edit(work, SOURCE, "// line 15\n", "// line 15\n// the call\n")
    commit(work, MESSAGES[SOURCE])
    checkout.export_series(work, project.root, RELEASE, base)
    (project.patches / "shared").mkdir()
    project.patch(SHARED).rename(project.patches / "shared" / SHARED)
    edit(project.root, series_file, SHARED, f"../shared/{SHARED}")
    project.record_sources()
    return project
