# SPDX-License-Identifier: Apache-2.0
"""Small stand-ins for what own builds start from: a project, TensorFlow Serving, TensorFlow."""

from __future__ import annotations

import difflib
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tf_model_pool_build.series.patch import NO_FILE, blob_hash

#: The commit that TensorFlow Serving 2.20.0 pins, and one that nobody does.
KNOWN_COMMIT = "72fbba3d20f4616d7312b5e2b7f79daf6e82f2fa"
UNKNOWN_COMMIT = "0123456789abcdef0123456789abcdef01234567"

#: What TensorFlow looks like before the series; `theirs.cc` is what Serving's own patch changes.
TENSORFLOW: Mapping[str, str] = {
    "tensorflow/tf_version.bzl": 'TF_VERSION = "2.20.0"\n',
    "tensorflow/core/process_state.h": "".join(f"line {n}\n" for n in range(1, 21)),
    "tensorflow/core/BUILD": "".join(f"rule {n}\n" for n in range(1, 11)),
    "tensorflow/core/theirs.cc": "one\ntwo\nthree\n",
}

#: How the tags declare TensorFlow: without a patch, with one, and with one and commands.
SHAPES: Mapping[str, str] = {
    "none": "",
    "patch": '    patch = "//third_party/tensorflow:tensorflow.patch",\n',
    "patch-and-commands": (
        '    patch = "//third_party/tensorflow:tensorflow.patch",\n'
        "    patch_cmds = [\n"
        "        \"sed -i '/a = b/d' tensorflow/core/x.bzl\",\n"
        '        "echo -e \\"\\\\ndef f(deps=[], **kwargs):\\\\n    pass\\" >> x.bzl",\n'
        "    ],\n"
    ),
}


def diff(path: str, before: str | None, after: str) -> str:
    """What `git diff` says of a change of one file; `before` None = a new file."""
    old = [] if before is None else before.splitlines(keepends=True)
    hunks = list(difflib.unified_diff(old, after.splitlines(keepends=True), n=3))[2:]
    head = f"diff --git a/{path} b/{path}\n"
    made = blob_hash(after.encode())
    if before is None:
        head += f"new file mode 100644\nindex {NO_FILE}..{made}\n--- /dev/null\n"
    else:
        head += f"index {blob_hash(before.encode())}..{made} 100644\n--- a/{path}\n"
    return head + f"+++ b/{path}\n" + "".join(hunks)


def mail(subject: str, *diffs: str) -> str:
    """A patch as `git format-patch` writes it, with a body that looks like a patch to a careless
    reader."""
    return (
        f"From {'0' * 40} Mon Sep 17 00:00:00 2001\nSubject: [PATCH] {subject}\n\n"
        "A line of the body.\n--- this is not a file\n+++ nor this\n@@ -1 +1 @@ nor a hunk\n\n"
        "Upstream: not submitted.\n\n" + "".join(diffs)
    )


def write_tree(root: Path, contents: Mapping[str, str]) -> Path:
    """Writes files below `root`."""
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def make_project(root: Path, series: str = "v2.20") -> Path:
    """A checkout of this project as far as own builds see it: one series that shares a patch."""
    header = TENSORFLOW["tensorflow/core/process_state.h"]
    build = TENSORFLOW["tensorflow/core/BUILD"]
    first = build.replace("rule 2\n", "rule 2\nour rule\n")
    return write_tree(
        root,
        {
            "tf_allocator/BUILD": 'cc_library(name = "pool", hdrs = ["pool/pool.h"])\n',
            "tf_allocator/pool/pool.h": "-- a comment\n++ another\n",
            f"patches/{series}/series": (
                "# In this order.\n\n../shared/Add-a-rule.patch\n0002-Call-them.patch\n"
            ),
            "patches/shared/Add-a-rule.patch": mail(
                "Add a rule",
                diff("tensorflow/core/BUILD", build, first),
            ),
            f"patches/{series}/0002-Call-them.patch": mail(
                "Call them",
                diff(
                    "tensorflow/core/process_state.h",
                    header,
                    header.replace("line 10\n", "line 10\nours\n"),
                ),
                # The same file once more: the series is a sequence.
                diff("tensorflow/core/BUILD", first, first.replace("rule 9\n", "rule nine\n")),
            ),
        },
    )


def make_serving(root: Path, shape: str = "none", commit: str = KNOWN_COMMIT) -> Path:
    """A checkout of TensorFlow Serving in git, as far as its TensorFlow archive goes."""
    contents = {
        "WORKSPACE": (
            'workspace(name = "tf_serving")\n\n# ===== TensorFlow dependency =====\n'
            'load("//tensorflow_serving:repo.bzl", "tensorflow_http_archive")\n'
            "tensorflow_http_archive(\n"
            '    name = "org_tensorflow",\n'
            f'    sha256 = "{"a" * 64}",\n'
            f'    git_commit = "{commit}",\n' + SHAPES[shape] + ")\n\n"
            "# Zürich: what follows stands at other byte than character offsets.\n"
            'load("//tensorflow_serving:workspace.bzl", "tf_serving_workspace")\n'
            "tf_serving_workspace()"  # no newline at the end
        ),
        "tensorflow_serving/repo.bzl": (
            "def _impl(ctx):\n    patch = ctx.attr.patch\n    if patch:\n"
            "        ctx.patch(patch, strip = 1)\n"
        ),
        "third_party/boost/BUILD": "# a package\n",
    }
    if SHAPES[shape]:
        theirs = TENSORFLOW["tensorflow/core/theirs.cc"]
        # Without a newline at its end, as an editor may leave it.
        contents["third_party/tensorflow/tensorflow.patch"] = diff(
            "tensorflow/core/theirs.cc", theirs, theirs.replace("two\n", "2\n")
        ).rstrip("\n")
        contents["third_party/tensorflow/BUILD"] = ""
    write_tree(root, contents)
    commit_all(root)
    return root


def make_tensorflow(root: Path) -> Path:
    """TensorFlow's sources, as far as the series of `make_project` goes."""
    return write_tree(root, TENSORFLOW)


def git(root: Path, *arguments: str) -> str:
    """Runs git in `root`; returns what it prints."""
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return subprocess.run(
        ("git", "-C", str(root), *identity, *arguments), check=True, capture_output=True, text=True
    ).stdout


def commit_all(root: Path) -> None:
    """Makes `root` a repository with everything committed."""
    git(root, "init", "--quiet")
    git(root, "add", "--all", "--force")
    git(root, "commit", "--quiet", "--message", "all")


def snapshot(root: Path) -> dict[str, bytes]:
    """The contents of every file below `root`, git's own apart."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(root).parts
    }


def apply_as_bazel(patch: str, tree: Path) -> None:
    """Applies a patch as Bazel's PatchUtil reads it: hunks by their counts, text between ignored.

    Files exactly as the hunks say, no fuzz. Raises AssertionError where Bazel would stop.
    """
    lines = patch.split("\n")
    at = 0
    old = new = None
    while at < len(lines):
        line = lines[at]
        if line.startswith("--- "):
            old = line[4:]
        elif line.startswith("+++ "):
            new = line[4:]
        elif match := re.match(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@", line):
            assert old is not None, f"line {at + 1}: a hunk of no file"
            assert new is not None, f"line {at + 1}: a hunk of no file"
            at = _apply_hunk(lines, at, match, tree, old, new)
            continue
        else:
            old = new = None if line.startswith("diff --git ") else old and new
        at += 1


def _apply_hunk(
    lines: list[str], at: int, match: re.Match[str], tree: Path, old: str, new: str
) -> int:
    start, removed, added = int(match[1]), int(match[2] or 1), int(match[3] or 1)
    before: list[str] = []
    after: list[str] = []
    at += 1
    while len(before) < removed or len(after) < added:
        kind, text = lines[at][:1] or " ", lines[at][1:]
        assert kind in " +-", f"line {at + 1} is not of a hunk: {lines[at]!r}"
        if kind != "+":
            before.append(text)
        if kind != "-":
            after.append(text)
        at += 1
    path = tree / new.removeprefix("b/")
    content = [] if old == "/dev/null" else path.read_text(encoding="utf-8").split("\n")
    found = [
        index
        for index in range(len(content) - len(before) + 1)
        if content[index : index + len(before)] == before
    ]
    place = min(found, key=lambda index: abs(index - start + 1), default=None)
    assert place is not None, f"a hunk does not fit {new}"
    content[place : place + len(before)] = after
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(content) + ("\n" if old == "/dev/null" else ""), encoding="utf-8")
    return at
