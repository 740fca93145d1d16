# SPDX-License-Identifier: Apache-2.0
"""The doctor's parsing, advice and output, on inputs made here."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tf_model_pool import api, doctor, overwritten

GIB = 1 << 30

TENSORFLOW = doctor.TensorFlowInfo(
    path="/venv/tensorflow",
    distribution="tensorflow-cpu",
    version="2.21.0+modelpool.0.1.0",
    patched=True,
    error=None,
)
POOLS = doctor.PoolInfo(
    active=True,
    reason=None,
    package_version="0.1.0",
    package_path="/venv/tf_model_pool",
    settings={"TF_MODEL_POOL": "on", "TF_MODEL_POOL_HUGE_PAGES": "on"},
    environment={},
)
ALLOCATOR = doctor.AllocatorInfo(
    kind="onednn-bfc",
    name="mklcpu",
    evidence="asked",
    malloc="glibc",
    malloc_path="/lib/libc.so.6",
    environment={},
)
SYSTEM = doctor.SystemInfo(
    kernel="6.18.1",
    per_vma_locks=True,
    thp_enabled="madvise",
    thp_defrag="madvise",
    cpus=8,
    usable_cpus=8,
    cpu_quota=None,
    memory_bytes=64 * GIB,
    cgroup_limit_bytes=None,
    address_space_limit_bytes=None,
    overcommit_memory=0,
    max_map_count=65530,
)


def inactive(reason: str, code: str = "missing") -> doctor.PoolInfo:
    return dataclasses.replace(POOLS, active=False, reason=reason, code=code)


def report(**changes: Any) -> doctor.Report:
    base = doctor.Report(
        python="3.11",
        tensorflow=TENSORFLOW,
        pools=POOLS,
        allocator=ALLOCATOR,
        system=SYSTEM,
        advice=[],
    )
    return dataclasses.replace(base, **changes)


def advice_text(
    tensorflow: doctor.TensorFlowInfo = TENSORFLOW,
    pools: doctor.PoolInfo = POOLS,
    allocator: doctor.AllocatorInfo = ALLOCATOR,
    **system: Any,
) -> str:
    entries = doctor.advise(tensorflow, pools, allocator, dataclasses.replace(SYSTEM, **system))
    assert all(entry.action and entry.reason for entry in entries)
    return "\n".join(f"{entry.action} {entry.reason}" for entry in entries)


# ---- collect


@pytest.mark.parametrize(
    ("name", "keeps_freed", "environment", "kind"),
    [
        ("cpu", None, {}, "malloc"),
        ("bfc_cpu_allocator_for_gpu", None, {}, "cpu-bfc"),
        ("mklcpu", True, {}, "onednn-bfc"),
        ("mklcpu", False, {}, "onednn-malloc"),
        ("mklcpu", None, {}, "onednn-bfc"),
        ("mklcpu", None, {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "true"}, "onednn-malloc"),
        ("mklcpu", None, {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "0"}, "onednn-bfc"),
        # What the allocator did outweighs a variable that was set too late to have an effect.
        ("mklcpu", True, {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"}, "onednn-bfc"),
        ("something_new", None, {}, "unknown"),
        (None, None, {}, "unknown"),
    ],
)
def test_allocator_is_classified_by_what_it_did(
    name: str | None, keeps_freed: bool | None, environment: dict[str, str], kind: str
) -> None:
    found, evidence = doctor.classify_allocator(name, keeps_freed, environment)
    assert found == kind
    assert repr(name) in evidence


def test_mapping_of_an_address_is_found_by_range() -> None:
    maps = (
        "7f0000000000-7f0000001000 r--p 00000000 fe:00 1 /usr/lib/libother.so\n"
        "7f0000001000-7f0000003000 r-xp 00001000 fe:00 2 /opt/my libs/libjemalloc.so.2\n"
        "7f0000003000-7f0000004000 rw-p 00000000 00:00 0\n"
        "7f0000004000-7f0000005000 rw-p 00000000 00:00 0 [heap]\n"
    )
    assert doctor.find_mapping(maps, 0x7F0000001000) == "/opt/my libs/libjemalloc.so.2"
    assert doctor.find_mapping(maps, 0x7F0000002FFF) == "/opt/my libs/libjemalloc.so.2"
    assert doctor.find_mapping(maps, 0x7F0000003000) is None
    assert doctor.find_mapping(maps, 0x7F0000004000) is None


def test_malloc_of_this_process_is_found_in_a_mapped_file() -> None:
    path = doctor.find_malloc()
    assert path is not None
    assert Path(path).is_file()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/lib/libjemalloc.so.2", "jemalloc"),
        ("/usr/lib/libtcmalloc_minimal.so.4", "tcmalloc"),
        ("/usr/lib/libmimalloc.so.2.1", "mimalloc"),
        ("/opt/libsnmallocshim.so", "libsnmallocshim.so"),
        (None, "unknown"),
    ],
)
def test_malloc_is_named_by_its_file(path: str | None, name: str) -> None:
    assert doctor.name_malloc(path) == name


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("6.4.0", True),
        ("6.3.13-generic", False),
        ("5.15.0-91-generic", False),
        ("6.18.44", True),
        ("10.0", True),
        ("unknown", None),
    ],
)
def test_per_vma_locks_begin_with_linux_6_4(kernel: str, expected: bool | None) -> None:
    assert doctor.has_per_vma_locks(kernel) is expected


def test_selected_word_is_the_one_in_brackets() -> None:
    assert doctor.selected("always defer [madvise] never\n") == "madvise"
    assert doctor.selected("no brackets") is None
    assert doctor.selected(None) is None


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_cgroup_v2_takes_the_tightest_ancestor(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/memory.max": f"{2 * GIB}\n",
            "sys/fs/cgroup/pod/container/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/pod/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/container/cpu.max": "150000 100000\n",
        },
    )
    assert doctor.read_cgroup(tmp_path) == (2 * GIB, 1.5)


def test_cgroup_v2_of_a_container_is_read_at_the_mount(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/path/outside/of/the/container\n",
            "sys/fs/cgroup/memory.max": f"{GIB}\n",
        },
    )
    assert doctor.read_cgroup(tmp_path) == (GIB, None)


def test_cgroup_v1_limits_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{3 * GIB}\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        },
    )
    assert doctor.read_cgroup(tmp_path) == (3 * GIB, 0.5)


def test_cgroup_without_limits_has_none(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n3:cpu:/\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/unified/memory.max": "max\n",
        },
    )
    assert doctor.read_cgroup(tmp_path) == (None, None)


def test_system_without_proc_and_sys_is_unknown_not_an_error(tmp_path: Path) -> None:
    system = doctor.read_system(tmp_path)
    assert system.thp_enabled is None
    assert system.memory_bytes is None
    assert system.usable_cpus >= 1


def test_system_is_read_from_its_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/sys/kernel/osrelease": "6.1.0-test\n",
            "proc/meminfo": "MemFree: 1 kB\nMemTotal:  2048 kB\n",
            "proc/sys/vm/overcommit_memory": "2\n",
            "proc/sys/vm/max_map_count": "65530\n",
            "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n",
        },
    )
    system = doctor.read_system(tmp_path)
    assert (system.kernel, system.per_vma_locks) == ("6.1.0-test", False)
    assert (system.memory_bytes, system.overcommit_memory) == (2048 * 1024, 2)
    assert (system.thp_enabled, system.max_map_count) == ("always", 65530)


def test_tensorflow_that_fails_to_import_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    location = api.TensorFlowLocation(tmp_path, "tensorflow-cpu", "2.21.0")
    monkeypatch.setattr(api, "find_tensorflow", lambda: location)

    def fail(name: str) -> None:
        raise TypeError("wrong NumPy")

    monkeypatch.setattr(importlib, "import_module", fail)
    found = doctor.read_tensorflow()
    assert found.error == "TypeError: wrong NumPy"
    assert (found.version, found.patched) == ("2.21.0", False)


# ---- advise


def test_healthy_system_gets_no_advice() -> None:
    assert advice_text() == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"per_vma_locks": False, "kernel": "5.15.0"}, ("6.4", "5.15.0")),
        ({"thp_enabled": "never"}, ("madvise", "no effect")),
        ({"thp_enabled": "always"}, ("madvise", "compact")),
        ({"address_space_limit_bytes": 8 * GIB}, ("ulimit -v", "8.0 GiB")),
        ({"overcommit_memory": 2}, ("vm.overcommit_memory",)),
        ({"usable_cpus": 2}, ("CPUs", "may use 2")),
        ({"cpu_quota": 1.5}, ("CPUs", "may use 1.5")),
    ],
)
def test_each_trait_of_the_system_has_its_advice(
    changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    text = advice_text(**changes)
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("TF_MODEL_POOL_SLOT", "Rename TF_MODEL_POOL_SLOT to TF_MODEL_POOL_SLOTS."),
        ("TF_MODEL_POOL_LIMIT", "Rename TF_MODEL_POOL_LIMIT to TF_MODEL_POOL_LIMIT_MB."),
        ("TF_MODEL_POOL_COLOUR", "Unset TF_MODEL_POOL_COLOUR; docs/reference.md lists"),
    ],
)
def test_a_name_that_is_not_a_settings_gets_the_nearest_one(name: str, words: str) -> None:
    settings = {"TF_MODEL_POOL": "on", "TF_MODEL_POOL_LIMIT_MB": "", "TF_MODEL_POOL_SLOTS": "2"}
    environment = {"TF_MODEL_POOL": "on", name: "3"}
    pools = dataclasses.replace(POOLS, settings=settings, environment=environment)
    assert advice_text(pools=pools).startswith(words)


def test_a_memory_limit_of_the_control_group_needs_no_setting() -> None:
    # The kernel takes standby memory before it kills: docs/design.md, "Standby memory".
    assert advice_text(cgroup_limit_bytes=4 * GIB) == ""


def test_huge_pages_switched_off_need_no_advice_about_the_kernel() -> None:
    pools = dataclasses.replace(POOLS, settings={"TF_MODEL_POOL_HUGE_PAGES": "off"})
    assert advice_text(pools=pools, thp_enabled="never") == ""


@pytest.mark.parametrize("kind", ["malloc", "onednn-malloc"])
def test_requests_on_glibc_malloc_get_advice(kind: str) -> None:
    glibc = dataclasses.replace(ALLOCATOR, kind=kind)
    assert "jemalloc" in advice_text(allocator=glibc)
    assert advice_text(allocator=dataclasses.replace(glibc, malloc="jemalloc")) == ""


def test_cpu_bfc_gets_advice() -> None:
    text = advice_text(allocator=dataclasses.replace(ALLOCATOR, kind="cpu-bfc"))
    assert "TF_CPU_ALLOCATOR_USE_BFC" in text


@pytest.mark.parametrize(
    ("code", "tensorflow", "words"),
    [
        ("off", {}, "Unset TF_MODEL_POOL"),
        ("malformed_setting", {}, "Correct the setting"),
        ("missing", {"patched": False}, "./build.sh"),
        ("missing", {"patched": False, "distribution": "tensorflow"}, "pip uninstall"),
        ("hooks_not_bound", {}, "Install the patched wheel again"),
        ("missing", {"error": "TypeError: wrong NumPy"}, "wrong NumPy"),
        ("missing", {"path": None, "patched": False, "error": "none"}, "./build.sh"),
    ],
)
def test_each_way_of_being_inactive_has_its_advice(
    code: str, tensorflow: dict[str, Any], words: str
) -> None:
    pools = inactive("in words", code)
    text = advice_text(dataclasses.replace(TENSORFLOW, **tensorflow), pools)
    assert words in text


MEND = ["pip uninstall -y tensorflow tensorflow-cpu", "pip install dist/tensorflow_cpu-2-*.whl"]


def test_a_tensorflow_installed_over_the_patched_one_gets_the_lines_that_mend_it() -> None:
    other = dataclasses.replace(
        TENSORFLOW,
        distribution="tensorflow",
        version="2.20.0",
        patched=False,
        installed_over="tensorflow-cpu 2.21.0+modelpool.0.1.0",
        mend=MEND,
    )
    reason = "tensorflow 2.20.0 was installed over tensorflow-cpu 2.21.0+modelpool.0.1.0"
    # WHEN
    text = doctor.render(
        report(
            tensorflow=other,
            pools=inactive(reason),
            advice=doctor.advise(other, inactive(reason), ALLOCATOR, SYSTEM),
        )
    )
    # THEN
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "distribution tensorflow" in rows
    assert "patched no; installed over tensorflow-cpu 2.21.0+modelpool.0.1.0" in rows
    at = rows.index(MEND[0])
    assert rows[at + 1] == MEND[1]
    assert "./build.sh" not in text


def test_the_reason_of_an_overwritten_installation_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = overwritten.Overwritten("a 1", "b", "2", Path("/site/tensorflow"), MEND)
    monkeypatch.setattr(api, "why_inactive", lambda: ("missing", over.text()))
    reason = doctor.read_pools({}).reason
    assert reason == "b 2 was installed over a 1 and replaced its files in /site/tensorflow."


def test_a_library_that_was_not_preloaded_gets_the_command_that_does_it() -> None:
    untouched = dataclasses.replace(TENSORFLOW, patched=False)
    text = advice_text(untouched, inactive("in words", "not_preloaded"))
    assert "python -m tf_model_pool run -- CMD" in text
    assert "./build.sh" not in text


def test_a_preloaded_library_that_does_not_fit_gets_the_command_that_makes_one() -> None:
    untouched = dataclasses.replace(TENSORFLOW, patched=False)
    pools = dataclasses.replace(inactive("in words", "hooks_not_bound"), preloaded=True)
    assert "./build.sh library" in advice_text(untouched, pools)


# ---- render


@pytest.mark.parametrize(
    ("patched", "preloaded", "shown"),
    [(True, False, "yes"), (False, False, "no"), (False, True, "no; the library is preloaded")],
)
def test_text_says_by_which_way_tensorflow_calls_us(
    patched: bool, preloaded: bool, shown: str
) -> None:
    text = doctor.render(
        report(
            tensorflow=dataclasses.replace(TENSORFLOW, patched=patched),
            pools=dataclasses.replace(POOLS, preloaded=preloaded),
        )
    )
    assert f"patched {shown}" in [" ".join(line.split()) for line in text.splitlines()]


def test_json_has_schema_health_and_all_sections() -> None:
    read = json.loads(doctor.to_json(report(advice=[doctor.Advice("do", "because")])))
    assert read["schema"] == "tf_model_pool.doctor/1"
    assert read["healthy"] is True
    assert read["tensorflow"] == dataclasses.asdict(TENSORFLOW)
    assert read["system"] == dataclasses.asdict(SYSTEM)
    assert read["advice"] == [{"action": "do", "reason": "because"}]


def test_text_shows_reason_and_advice() -> None:
    text = doctor.render(
        report(
            pools=inactive("TF_MODEL_POOL=off"),
            advice=[doctor.Advice("Unset it.", "it is off")],
        )
    )
    assert "TF_MODEL_POOL=off" in text
    assert "* Unset it.\n    Reason: it is off." in text


def test_text_tells_set_values_from_defaults_and_from_typing_errors() -> None:
    pools = dataclasses.replace(
        POOLS,
        settings={"TF_MODEL_POOL_SLOTS": "2", "TF_MODEL_POOL_LIMIT_MB": ""},
        environment={"TF_MODEL_POOL_SLOTS": "2", "TF_MODEL_POOL_SLOT": "3"},
    )
    lines = [" ".join(line.split()) for line in doctor.render(report(pools=pools)).splitlines()]
    assert "TF_MODEL_POOL_SLOTS 2 (set)" in lines
    assert "TF_MODEL_POOL_LIMIT_MB no limit (default)" in lines
    assert "TF_MODEL_POOL_SLOT '3' (not a setting)" in lines


def test_text_of_an_empty_machine_has_no_none_values() -> None:
    system = dataclasses.replace(
        SYSTEM, thp_enabled=None, thp_defrag=None, memory_bytes=None, overcommit_memory=None
    )
    missing = doctor.TensorFlowInfo(None, None, None, False, "TensorFlow is not installed")
    text = doctor.render(report(system=system, tensorflow=missing))
    assert "None" not in text
    assert "not installed" in text


@pytest.mark.parametrize(("pools", "status"), [(POOLS, 0), (inactive("off"), 1)])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_exit_status_says_whether_pools_are_active(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pools: doctor.PoolInfo,
    status: int,
    options: list[str],
) -> None:
    monkeypatch.setattr(doctor, "collect", lambda: report(pools=pools))
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    assert doctor.run(parser.parse_args(options)) == status
    output = capsys.readouterr().out
    assert not options or json.loads(output)["healthy"] is (status == 0)
