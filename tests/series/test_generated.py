# SPDX-License-Identifier: Apache-2.0
"""The generated patch has what tf_allocator/BUILD names, in the bytes that git would write."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.patch_project import Project, edit, write
from tf_model_pool_build.errors import PatchError
from tf_model_pool_build.series import checkout, generated


def test_every_source_of_the_pools_is_in_a_target_or_needed_by_released_binaries_alone(
    repository: Path,
) -> None:
    assert generated.source_problems(repository) == []


def test_git_writes_the_same_bytes(project: Project, tensorflow: Path) -> None:
    checkout.import_series(tensorflow, project.series())
    exported = checkout.export_commits(tensorflow, None, project.root)[0]
    assert exported == generated.generate(project.root)
    assert "pool/a_test.cc" not in exported
    assert "CMakeLists.txt" not in exported


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pool/b.cc": "int b;\n"}, "no target of tf_allocator/BUILD has tf_allocator/pool/b.cc"),
        (
            {"pool/a.cc": '#include "tf_allocator/device/x.h"\n'},
            "tf_allocator/pool/a.cc includes tf_allocator/device/x.h, which no target has",
        ),
        ({"BUILD": 'x(srcs = ["pool/a.cc", "pool/a.h", "pool/c.cc"])\n'}, "names pool/c.cc, which"),
        (
            {
                "BUILD": 'x(srcs = ["pool/a.cc", "pool/a.h", "binary/hook_status.cc"])\n',
                "binary/hook_status.cc": "",
            },
            "which no build of TensorFlow needs",
        ),
        ({"BUILD": "x(\n"}, "tf_allocator/BUILD, line 1"),
        ({"pool/a.h": "int A();"}, "does not end in a line feed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sources_and_targets_that_do_not_agree_are_named(
    project: Project, files: dict[str, str], message: str
) -> None:
    write(project.root, {f"tf_allocator/{name}": text for name, text in files.items()})
    with pytest.raises(PatchError, match=message.replace("(", r"\(")):
        generated.generate(project.root)


def test_a_change_of_a_source_changes_the_patch(project: Project) -> None:
    before = generated.generate(project.root)
    edit(project.root, "tf_allocator/pool/a.cc", "return 1;", "return 2;")
    assert generated.generate(project.root) != before
