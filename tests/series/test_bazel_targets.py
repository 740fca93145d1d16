# SPDX-License-Identifier: Apache-2.0
"""What Bazel would refuse, or link twice, as far as it can be read off the BUILD files.

Bazel itself is not run here: docs/patches.md says what was and what was not.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from tf_model_pool_build.series import listing

ROOT = Path(__file__).resolve().parents[2]
_LABEL = re.compile(r'"//tf_allocator:([\w/.]+)"')
_INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Target:
    """A rule of a BUILD file."""

    rule: str
    sources: tuple[str, ...]
    headers: tuple[str, ...]
    deps: tuple[str, ...]


def strings(call: ast.Call, name: str) -> tuple[str, ...]:
    (values,) = [k.value for k in call.keywords if k.arg == name] or [ast.List([])]
    return tuple(ast.literal_eval(values))


def read_targets(build: str) -> dict[str, Target]:
    targets = {}
    for node in ast.parse(build).body:
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            continue
        call = node.value
        assert isinstance(call.func, ast.Name)
        if call.func.id in ("cc_library", "filegroup"):
            (name,) = [ast.literal_eval(k.value) for k in call.keywords if k.arg == "name"]
            targets[name] = Target(
                call.func.id, *(strings(call, key) for key in ("srcs", "hdrs", "deps"))
            )
        elif call.func.id == "exports_files":
            for file in ast.literal_eval(call.args[0]):
                targets[file] = Target("file", (file,), (), ())
    return targets


@pytest.fixture(scope="module")
def targets() -> dict[str, Target]:
    return read_targets((ROOT / "tf_allocator/BUILD").read_text())


def labels(release: str) -> set[str]:
    """Targets of tf_allocator/ that a series' changes of BUILD files name."""
    changes = listing.read(ROOT / "patches", release).changes
    added = (
        line for c in changes if c.path.endswith("/BUILD") and not c.is_new for line in c.added
    )
    return {name for line in added for name in _LABEL.findall(line)}


@pytest.mark.parametrize("release", listing.releases(ROOT / "patches"))
def test_the_patches_name_targets_that_exist(release: str, targets: dict[str, Target]) -> None:
    assert labels(release) == {
        "headers",
        "load_session",
        "pool",
        "pool/pool_stats.h",
        "process_state_srcs",
        "restore_scope",
    }
    assert labels(release) <= targets.keys()


def test_every_source_is_compiled_once(targets: dict[str, Target]) -> None:
    sources = [s for t in targets.values() if t.rule != "file" for s in t.sources]
    assert sorted(sources) == sorted(set(sources))


def test_the_pools_are_a_leaf(targets: dict[str, Target]) -> None:
    # process_state depends on them, and nearly everything depends on process_state.
    assert targets["headers"].deps == ()
    assert targets["headers"].sources == ()
    assert targets["pool"].deps == (":headers",)


def test_what_both_libraries_link_has_no_code(targets: dict[str, Target]) -> None:
    # libtensorflow_cc must take process_state's code from libtensorflow_framework: of our targets
    # restore_scope may reach the header-only one alone.
    own = [dep for dep in targets["restore_scope"].deps if dep.startswith(":")]
    assert own == [":headers"]
    assert not any("process_state" in dep for dep in targets["restore_scope"].deps)


def test_dependencies_are_those_that_tensorflow_shows_to_everybody(
    targets: dict[str, Target],
) -> None:
    outside = {dep for t in targets.values() for dep in t.deps if dep.startswith("//")}
    assert outside == {
        "//tensorflow/cc/saved_model:constants",
        "//tensorflow/cc/saved_model:reader",
        "//tensorflow/core:core_cpu",
        "//tensorflow/core:core_cpu_lib",
        "//tensorflow/core:framework",
        "//tensorflow/core:lib",
        "//tensorflow/core:protos_all_cc",
        "//tensorflow/core/util/tensor_bundle",
        "//tensorflow/core/util/tensor_bundle:naming",
    }


def test_what_a_target_includes_of_ours_it_depends_on(targets: dict[str, Target]) -> None:
    headers = {f"tf_allocator/{name}" for name in targets["headers"].headers}
    for target in targets.values():
        for source in (*target.sources, *target.headers):
            included = _INCLUDE.findall((ROOT / "tf_allocator" / source).read_text())
            assert {name for name in included if name.startswith("tf_allocator/")} <= headers


def test_what_the_patched_files_include_is_handed_on(targets: dict[str, Target]) -> None:
    handed_on = {f"tf_allocator/{name}" for name in targets["headers"].headers}
    changes = listing.read(ROOT / "patches", "v2.21").changes
    included = {
        name
        for change in changes
        if not change.is_new
        for name in _INCLUDE.findall("\n".join(change.added))
        if name.startswith("tf_allocator/")
    }
    assert included == {
        "tf_allocator/pool/pool_stats.h",
        "tf_allocator/device/constant_tensor.h",
        "tf_allocator/device/device_allocator.h",
        "tf_allocator/load/load_session.h",
        "tf_allocator/restore/restore_scope.h",
    }
    assert included <= handed_on


@pytest.mark.parametrize(
    "call",
    [
        "return ModelPoolOr(attr, allocator_);",
        "if (MakeConstantInPool(attributes().incarnation(), tensor_proto, tensor)) {",
    ],
)
def test_the_logic_of_the_device_exists_once(call: str) -> None:
    # The hook of released binaries and the patched file make the same call.
    assert call in (ROOT / "tf_allocator/binary/threadpool_device_hook.cc").read_text()
    added = [
        line.strip()
        for change in listing.read(ROOT / "patches", "v2.21").changes
        if change.path.endswith("/threadpool_device.cc")
        for line in change.added
    ]
    assert added.count(call) == 1


def test_nothing_but_released_binaries_looks_for_hooks(targets: dict[str, Target]) -> None:
    assert "report/source_build.cc" in targets["process_state_srcs"].sources
    source = (ROOT / "tf_allocator/report/source_build.cc").read_text()
    assert 'std::string UnboundHooks() { return ""; }' in source
