# SPDX-License-Identifier: Apache-2.0
"""`python -m tf_model_pool doctor`: what runs here, whether pools are active, and advice.

Collecting, advising and rendering are apart: `collect` asks the process and the system,
`advise` is a function of what was found, `render` and `to_json` only print.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import difflib
import gc
import importlib
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tf_model_pool import api, overwritten, scrape, server_check
from tf_model_pool._version import __version__
from tf_model_pool.errors import ModelPoolError

SCHEMA = "tf_model_pool.doctor/1"

_MIB = 1 << 20
# cgroup v1 writes "no limit" as the largest multiple of the page size below 2**63.
_CGROUP_V1_NO_LIMIT = 1 << 60
# Above glibc's largest mmap threshold (32 MiB on 64 bits, see mallopt(3)), so that glibc
# maps such a block for itself and unmaps it when it is freed.
_PROBE_BYTES = 64 * _MIB
# Environment variables that change which allocator serves requests.
_ALLOCATOR_VARIABLES = (
    "LD_PRELOAD",
    "MALLOC_CONF",
    "TF_CPU_ALLOCATOR_USE_BFC",
    "TF_CPU_BFC_MEM_LIMIT_IN_MB",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_ONEDNN_USE_SYSTEM_ALLOCATOR",
)
# Advice compares with this kernel: page faults no longer take the process-wide lock.
_PER_VMA_LOCKS = (6, 4)
# Names are alike by what follows it.
_SETTING_PREFIX = "TF_MODEL_POOL_"


@dataclasses.dataclass(frozen=True, slots=True)
class TensorFlowInfo:
    """Which TensorFlow this Python imports. `error` is set if importing it failed.

    If it was installed over the patched one, `installed_over` names that, and `mend` has the
    commands that bring it back.
    """

    path: str | None
    distribution: str | None
    version: str | None
    patched: bool
    error: str | None
    installed_over: str | None = None
    mend: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class PoolInfo:
    """Whether restores go to pools. `environment` is what is set, `settings` what is in force.

    `code` is the kind of `reason` (`api.InactiveCode`). `binding` is how this package asks the
    library: `native module`, or `C interface` with why.
    """

    active: bool
    reason: str | None
    package_version: str
    package_path: str
    settings: dict[str, str]
    environment: dict[str, str]
    binding: str = "native module"
    preloaded: bool = False
    code: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class AllocatorInfo:
    """What serves the tensors of requests.

    Attributes:
        kind: `onednn-bfc`, `onednn-malloc`, `malloc`, `cpu-bfc` or `unknown`.
        name: TensorFlow's name of the allocator, from the step statistics of a session.
        evidence: how `kind` was found.
        malloc: `glibc`, `jemalloc`, `tcmalloc`, `mimalloc`, or the library's file name.
        malloc_path: the file that the symbol `malloc` resolves to in this process.
    """

    kind: str
    name: str | None
    evidence: str
    malloc: str
    malloc_path: str | None
    environment: dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class SystemInfo:
    """The machine as this process may use it. Sizes are bytes; None = no limit or unknown."""

    kernel: str
    per_vma_locks: bool | None
    thp_enabled: str | None
    thp_defrag: str | None
    cpus: int
    usable_cpus: int
    cpu_quota: float | None
    memory_bytes: int | None
    cgroup_limit_bytes: int | None
    address_space_limit_bytes: int | None
    overcommit_memory: int | None
    max_map_count: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Advice:
    """What to do, and why."""

    action: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """All that `doctor` knows. Healthy means that restores go to pools."""

    python: str
    tensorflow: TensorFlowInfo
    pools: PoolInfo
    allocator: AllocatorInfo
    system: SystemInfo
    advice: list[Advice]

    @property
    def healthy(self) -> bool:
        return self.pools.active


# ---- collect


def collect(environment: Mapping[str, str] | None = None) -> Report:
    """Asks this process and the system. Imports TensorFlow if there is one.

    Runs one operation in a session of its own and allocates some tens of MiB for a moment.
    """
    environment = os.environ if environment is None else environment
    tensorflow = read_tensorflow()
    pools = read_pools(environment)
    allocator = read_allocator(environment, tensorflow)
    system = read_system()
    return Report(
        python=f"{platform.python_version()} ({sys.executable})",
        tensorflow=tensorflow,
        pools=pools,
        allocator=allocator,
        system=system,
        advice=advise(tensorflow, pools, allocator, system),
    )


def read_tensorflow() -> TensorFlowInfo:
    """Locates and imports TensorFlow; a failing import becomes the field `error`."""
    location = api.find_tensorflow()
    if location is None:
        return TensorFlowInfo(None, None, None, False, "TensorFlow is not installed")
    error = None
    version = location.version
    try:
        module: Any = importlib.import_module("tensorflow")
        version = version or str(module.__version__)
    except Exception as problem:  # the report is about whatever is wrong
        error = f"{type(problem).__name__}: {problem}"
    over = location.overwritten
    return TensorFlowInfo(
        str(location.directory),
        location.distribution,
        version,
        location.patched,
        error,
        installed_over=None if over is None else over.patched,
        mend=[] if over is None else over.mend,
    )


def read_pools(environment: Mapping[str, str]) -> PoolInfo:
    """Whether pools are active, with the settings in force where they can be known."""
    code, reason = api.why_inactive() or (None, None)
    if reason is not None:
        # The last part is advice.
        reason = reason.partition(overwritten.HOW_TO_MEND)[0]
        reason = reason.removesuffix(api.HOW_TO_GET).removesuffix(api.HOW_TO_RUN).strip()
    settings: dict[str, str] = {}
    with contextlib.suppress(ModelPoolError):
        settings = api.settings()
    return PoolInfo(
        active=reason is None,
        reason=reason,
        package_version=__version__,
        package_path=str(Path(__file__).resolve().parent),
        settings=settings,
        environment={
            name: value
            for name, value in sorted(environment.items())
            if name.startswith("TF_MODEL_POOL")
        },
        binding=describe_binding(),
        preloaded=api.preloaded(),
        code=code,
    )


def describe_binding() -> str:
    """How this package asks the library, and what is missing for the native module."""
    if api.binding() == "native":
        return "native module"
    why = None
    with contextlib.suppress(ModelPoolError):
        why = api.build_info().get("native_missing")
    return f"C interface (no native module: {why or 'not installed'})"


def read_allocator(environment: Mapping[str, str], tensorflow: TensorFlowInfo) -> AllocatorInfo:
    """Runs an operation and looks where its memory came from."""
    malloc_path = find_malloc()
    malloc = name_malloc(malloc_path)
    name: str | None = None
    kind = "unknown"
    if tensorflow.path is None or tensorflow.error is not None:
        evidence = "TensorFlow does not import, so nothing could be asked"
    else:
        try:
            name = request_allocator_name()
            kept = keeps_freed_blocks() if name == "mklcpu" and malloc == "glibc" else None
            kind, evidence = classify_allocator(name, kept, environment)
        except Exception as problem:  # a report without this field beats none
            evidence = f"the probe failed: {type(problem).__name__}: {problem}"
    return AllocatorInfo(
        kind=kind,
        name=name,
        evidence=evidence,
        malloc=malloc,
        malloc_path=malloc_path,
        environment={key: environment[key] for key in _ALLOCATOR_VARIABLES if key in environment},
    )


def request_allocator_name() -> str | None:
    """TensorFlow's name of the allocator that gave an operation of a session its output."""
    tf: Any = importlib.import_module("tensorflow")
    graph = tf.Graph()
    with graph.as_default():
        fed = tf.compat.v1.placeholder(tf.float32, [None])
        output = tf.concat([fed, fed], 0)
    metadata = tf.compat.v1.RunMetadata()
    options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
    with tf.compat.v1.Session(graph=graph) as session:
        # Above oneDNN's threshold (256 KiB) between small blocks and pooled ones.
        feed = {fed: [0.0] * (128 * 1024)}
        session.run(output, feed, options=options, run_metadata=metadata)
    for device in metadata.step_stats.dev_stats:
        for node in device.node_stats:
            for memory in node.memory:
                if memory.total_bytes:
                    return str(memory.allocator_name)
    return None


def keeps_freed_blocks() -> bool | None:
    """True where a large block stays mapped after TensorFlow freed it. None: cannot be asked."""
    tf: Any = importlib.import_module("tensorflow")
    tensor = tf.raw_ops.Empty(shape=[_PROBE_BYTES], dtype=tf.uint8, init=False)
    address = int(tensor._numpy().__array_interface__["data"][0])
    del tensor
    gc.collect()
    page = os.sysconf("SC_PAGE_SIZE")
    middle = (address + _PROBE_BYTES // 2) // page * page
    libc = ctypes.CDLL(None, use_errno=True)
    # mincore(2): ENOMEM means that the page is not mapped.
    status = (ctypes.c_ubyte * 1)()
    if libc.mincore(ctypes.c_void_p(middle), ctypes.c_size_t(page), status) == 0:
        return True
    return False if ctypes.get_errno() == 12 else None


def classify_allocator(
    name: str | None, keeps_freed: bool | None, environment: Mapping[str, str]
) -> tuple[str, str]:
    """Kind and evidence from the allocator's name and, for oneDNN's, from what it did.

    oneDNN's allocator has one name for two ways of working: a BFC pool of its own for blocks
    of 256 KiB and more, or malloc for all of them.
    """
    named = f"a session's step statistics name {name!r}"
    if name == "cpu":
        return "malloc", named
    if name == "bfc_cpu_allocator_for_gpu":
        return "cpu-bfc", named
    if name != "mklcpu":
        return "unknown", named
    if keeps_freed is not None:
        kept = "stayed mapped" if keeps_freed else "was unmapped"
        kind = "onednn-bfc" if keeps_freed else "onednn-malloc"
        return kind, f"{named}, and a freed block of {_PROBE_BYTES // _MIB} MiB {kept}"
    value = environment.get("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "")
    by_malloc = value.lower() in ("1", "true")
    shown = (
        f"TF_ONEDNN_USE_SYSTEM_ALLOCATOR={value}"
        if value
        else ("TF_ONEDNN_USE_SYSTEM_ALLOCATOR is not set")
    )
    return ("onednn-malloc" if by_malloc else "onednn-bfc"), f"{named}, and {shown}"


def find_malloc() -> str | None:
    """The file that `malloc` comes from in this process; None where it cannot be told."""
    try:
        address = ctypes.cast(ctypes.CDLL(None).malloc, ctypes.c_void_p).value
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except (OSError, AttributeError):
        return None
    return None if address is None else find_mapping(maps, address)


def find_mapping(maps: str, address: int) -> str | None:
    """The file mapped at an address, from the text of /proc/<pid>/maps (proc_pid_maps(5))."""
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or not fields[5].startswith("/"):
            continue
        low, _, high = fields[0].partition("-")
        if int(low, 16) <= address < int(high, 16):
            return fields[5]
    return None


def name_malloc(path: str | None) -> str:
    """The common name of a malloc from the name of its file."""
    if path is None:
        return "unknown"
    file_name = Path(path).name
    for known in ("jemalloc", "tcmalloc", "mimalloc"):
        if known in file_name:
            return known
    if re.match(r"libc[.-]", file_name):
        return "glibc" if platform.libc_ver()[0] == "glibc" else "libc"
    return file_name


def read_system(root: Path = Path("/")) -> SystemInfo:
    """Reads /proc and /sys below `root`. What is missing there becomes None."""
    kernel = platform.release()
    with contextlib.suppress(OSError):
        kernel = (root / "proc/sys/kernel/osrelease").read_text(encoding="ascii").strip()
    thp = root / "sys/kernel/mm/transparent_hugepage"
    limit, quota = read_cgroup(root)
    return SystemInfo(
        kernel=kernel,
        per_vma_locks=has_per_vma_locks(kernel),
        thp_enabled=selected(_read(thp / "enabled")),
        thp_defrag=selected(_read(thp / "defrag")),
        cpus=os.cpu_count() or 1,
        usable_cpus=len(os.sched_getaffinity(0)),
        cpu_quota=quota,
        memory_bytes=_memory_total(_read(root / "proc/meminfo")),
        cgroup_limit_bytes=limit,
        address_space_limit_bytes=_address_space_limit(),
        overcommit_memory=_whole_number(_read(root / "proc/sys/vm/overcommit_memory")),
        max_map_count=_whole_number(_read(root / "proc/sys/vm/max_map_count")),
    )


def has_per_vma_locks(kernel: str) -> bool | None:
    """Whether a kernel release takes page faults under per-VMA locks (Linux 6.4 and later)."""
    match = re.match(r"(\d+)\.(\d+)", kernel)
    return None if match is None else (int(match[1]), int(match[2])) >= _PER_VMA_LOCKS


def selected(text: str | None) -> str | None:
    """The word in brackets: `always [madvise] never` -> `madvise`."""
    match = re.search(r"\[([^]]+)\]", text or "")
    return match[1] if match else None


def read_cgroup(root: Path) -> tuple[int | None, float | None]:
    """The tightest memory limit (bytes) and CPU quota (CPUs) on this process, v1 and v2.

    Every ancestor counts. In a container the path of /proc/self/cgroup may not exist below
    /sys/fs/cgroup; the root of the mount is then the container's own group.
    """
    limits: list[int] = []
    quotas: list[float] = []
    base = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        names = controllers.split(",")
        if controllers == "":
            mount = base / "unified" if (base / "unified").is_dir() else base
            for group in _ancestors(mount, path):
                _add_limit(limits, _read(group / "memory.max"))
                quota, _, period = (_read(group / "cpu.max") or "").strip().partition(" ")
                _add_quota(quotas, quota, period)
        if "memory" in names:
            for group in _ancestors(base / controllers, path):
                _add_limit(limits, _read(group / "memory.limit_in_bytes"))
        if "cpu" in names:
            for group in _ancestors(base / controllers, path):
                _add_quota(
                    quotas, _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
                )
    return min(limits, default=None), min(quotas, default=None)


def _ancestors(mount: Path, path: str) -> list[Path]:
    group = mount / path.strip().lstrip("/")
    return [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]


def _add_limit(limits: list[int], text: str | None) -> None:
    value = _whole_number(text)
    if value is not None and value < _CGROUP_V1_NO_LIMIT:
        limits.append(value)


def _add_quota(quotas: list[float], quota: str | None, period: str | None) -> None:
    quota_us, period_us = _whole_number(quota), _whole_number(period)
    if quota_us is not None and quota_us > 0 and period_us:
        quotas.append(quota_us / period_us)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _whole_number(text: str | None) -> int | None:
    try:
        return int((text or "").strip())
    except ValueError:
        return None


def _memory_total(meminfo: str | None) -> int | None:
    match = re.search(r"^MemTotal:\s+(\d+) kB", meminfo or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _address_space_limit() -> int | None:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


# ---- advise


def advise(
    tensorflow: TensorFlowInfo, pools: PoolInfo, allocator: AllocatorInfo, system: SystemInfo
) -> list[Advice]:
    """What a person should change, most important first; [] where nothing."""
    advice: list[Advice] = []

    def add(action: str, reason: str) -> None:
        advice.append(Advice(action, reason))

    if not pools.active:
        _advise_inactive(tensorflow, pools, add)
    _advise_names(pools, add)
    _advise_system(pools, system, add)
    if allocator.kind in ("malloc", "onednn-malloc") and allocator.malloc == "glibc":
        add(
            "Leave oneDNN's allocator on for requests, or preload jemalloc or tcmalloc.",
            "requests use glibc's malloc, which maps and unmaps large blocks; each such call "
            "takes the lock of the whole address space and the pages are faulted in anew",
        )
    if allocator.kind == "cpu-bfc":
        add(
            "Measure with and without TF_CPU_ALLOCATOR_USE_BFC.",
            "every allocation of a request, small ones too, then goes through one locked pool, "
            "which never gives memory back",
        )
    return advice


def _advise_inactive(tensorflow: TensorFlowInfo, pools: PoolInfo, add: Any) -> None:
    reason = pools.reason or "the reason is not known"
    if pools.code == "off":
        add("Unset TF_MODEL_POOL, or set it to on.", "TF_MODEL_POOL=off switches pools off")
    elif pools.code == "malformed_setting":
        add("Correct the setting and start the process again.", reason)
    elif tensorflow.mend and not pools.preloaded and pools.code != "not_preloaded":
        add(
            "\n".join(["Install the patched wheel again:", *tensorflow.mend]),
            "the two have the same files, and pip lets the later one overwrite those of the "
            "earlier one; if something you use requires tensorflow by that name, build the wheel "
            "under it (docs/quickstart.md)",
        )
    elif tensorflow.path is not None and tensorflow.error is not None:
        add("Repair the installation of TensorFlow.", f"importing it fails: {tensorflow.error}")
    elif tensorflow.patched:
        add("Install the patched wheel again in a clean virtual environment.", reason)
    elif pools.code == "not_preloaded":
        add(api.HOW_TO_RUN, reason)
    elif pools.preloaded:
        add(api.HOW_TO_GET_LIBRARY, reason)
    else:
        if tensorflow.distribution not in (None, "tensorflow-cpu"):
            add(
                f"Run `pip uninstall {tensorflow.distribution}` before you install the wheel.",
                "two distributions with the package tensorflow overwrite each other's files",
            )
        add(api.HOW_TO_GET, reason)


def _advise_names(pools: PoolInfo, add: Any) -> None:
    """About variables that are not settings; with a malformed one, the settings are not known."""
    known = {name.removeprefix(_SETTING_PREFIX): name for name in pools.settings}
    for name in pools.environment:
        if not known or name in pools.settings:
            continue
        near = difflib.get_close_matches(name.removeprefix(_SETTING_PREFIX), known, n=1)
        add(
            f"Rename {name} to {known[near[0]]}."
            if near
            else f"Unset {name}; docs/reference.md lists the settings.",
            f"{name} is not a setting and has no effect",
        )


def _advise_system(pools: PoolInfo, system: SystemInfo, add: Any) -> None:
    if system.per_vma_locks is False:
        add(
            "Use Linux 6.4 or later where you can.",
            f"on {system.kernel} every page fault takes the lock of the whole address space, so "
            "the faults of a load delay the faults of requests",
        )
    huge_pages = pools.settings.get("TF_MODEL_POOL_HUGE_PAGES", "on") == "on"
    if huge_pages and system.thp_enabled == "never":
        add(
            "Set /sys/kernel/mm/transparent_hugepage/enabled to madvise.",
            "it is never, so TF_MODEL_POOL_HUGE_PAGES=on has no effect and a load takes one "
            "fault per 4 KiB page",
        )
    if system.thp_enabled == "always":
        add(
            "Set /sys/kernel/mm/transparent_hugepage/enabled to madvise.",
            "it is always, so the kernel may compact memory inside a page fault of a request; "
            "pools ask for huge pages by themselves",
        )
    if system.address_space_limit_bytes is not None:
        add(
            "Raise the limit of the address space (ulimit -v unlimited).",
            f"it is {_size(system.address_space_limit_bytes)}; a pool reserves more addresses "
            "than it uses, and a load falls back to the device's allocator when they run out",
        )
    if system.overcommit_memory == 2:
        add(
            "Set vm.overcommit_memory to 0 or 1, or leave room for the standby pools.",
            "it is 2, so memory of standby pools counts fully against the commit limit, and a "
            "load falls back to the device's allocator when that is reached",
        )
    cpus = (
        system.usable_cpus
        if system.cpu_quota is None
        else min(system.usable_cpus, system.cpu_quota)
    )
    if cpus <= 2:
        add(
            "Give the process more CPUs, or load new versions at quiet hours.",
            f"it may use {cpus:g}; pools keep the memory of a load apart from requests, but its "
            "work (reading, graph import) still competes with them for CPU time",
        )


# ---- render


def to_json(report: Report) -> str:
    """The report as versioned JSON; new fields may appear under the same schema."""
    fields = {"schema": SCHEMA, "healthy": report.healthy, **dataclasses.asdict(report)}
    return json.dumps(fields, indent=2)


_ALLOCATOR_WORDS = {
    "onednn-bfc": "oneDNN's: one BFC pool for blocks from 256 KiB, malloc below",
    "onednn-malloc": "oneDNN's, which passes everything to malloc",
    "malloc": "malloc for everything",
    "cpu-bfc": "TensorFlow's CPU BFC pool for everything",
    "unknown": "unknown",
}


def render(report: Report) -> str:
    """The report as text for a person."""
    tensorflow, pools, allocator, system = (
        report.tensorflow,
        report.pools,
        report.allocator,
        report.system,
    )
    lines = ["TensorFlow"]
    if tensorflow.path is None:
        lines += [_row("version", "not installed")]
    else:
        lines += [
            _row("version", f"{tensorflow.version or 'unknown'}"),
            _row("distribution", tensorflow.distribution or "unknown"),
            _row("path", tensorflow.path),
            _row("patched", _patched(tensorflow, pools)),
        ]
        if tensorflow.error:
            lines += [_row("import", f"fails: {tensorflow.error}")]
    lines += [_row("Python", report.python), "", "Model pools"]
    lines += [_row("active", "yes" if pools.active else "NO")]
    if pools.reason:
        lines += [_row("reason", pools.reason)]
    lines += [_row("package", f"{pools.package_version}, {pools.package_path}")]
    lines += [_row("binding", pools.binding)]
    for name, value in pools.settings.items():
        source = "set" if name in pools.environment else "default"
        lines += [_row(name, f"{value or 'no limit'} ({source})")]
    for name, value in pools.environment.items():
        if name not in pools.settings:
            note = " (not a setting)" if pools.settings else ""
            lines += [_row(name, f"{value!r}{note}")]
    lines += ["", "Allocator of requests"]
    lines += [
        _row("kind", _ALLOCATOR_WORDS.get(allocator.kind, allocator.kind)),
        _row("evidence", allocator.evidence),
        _row("malloc", f"{allocator.malloc}, {allocator.malloc_path or 'file unknown'}"),
    ]
    lines += [_row(name, value) for name, value in allocator.environment.items()]
    locks = {True: "per-VMA page fault locks", False: "no per-VMA locks", None: "locks unknown"}
    lines += ["", "System"]
    lines += [
        _row("kernel", f"{system.kernel} ({locks[system.per_vma_locks]})"),
        _row(
            "huge pages",
            f"{system.thp_enabled or 'unknown'}, defrag {system.thp_defrag or 'unknown'}",
        ),
        _row(
            "CPUs",
            f"{system.cpus}, usable {system.usable_cpus}, quota "
            f"{'none' if system.cpu_quota is None else f'{system.cpu_quota:g}'}",
        ),
        _row(
            "memory",
            f"{_size(system.memory_bytes, 'unknown')}, control group limit "
            f"{_size(system.cgroup_limit_bytes)}",
        ),
        _row("address space limit", _size(system.address_space_limit_bytes)),
        _row("vm.overcommit_memory", _or_unknown(system.overcommit_memory)),
        _row("vm.max_map_count", _or_unknown(system.max_map_count)),
    ]
    lines += ["", "Advice"]
    if not report.advice:
        lines += ["  none"]
    for entry in report.advice:
        action, *commands = entry.action.splitlines()
        lines += [f"  * {action}", *(f"        {command}" for command in commands)]
        lines += [f"    Reason: {entry.reason.rstrip('.')}."]
    return "\n".join(lines)


def _patched(tensorflow: TensorFlowInfo, pools: PoolInfo) -> str:
    if tensorflow.patched:
        return "yes"
    if tensorflow.installed_over:
        return f"no; installed over {tensorflow.installed_over}"
    return "no; the library is preloaded" if pools.preloaded else "no"


def _row(name: str, value: str) -> str:
    return f"  {name:<31} {value}"


def _or_unknown(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _size(value: int | None, without: str = "none") -> str:
    if value is None:
        return without
    return f"{value / (1 << 30):.1f} GiB" if value >= 1 << 30 else f"{value / _MIB:.1f} MiB"


# ---- command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `doctor`."""
    parser.add_argument("--json", action="store_true", help=f"print JSON ({SCHEMA})")
    parser.add_argument(
        "--url",
        metavar="URL",
        help="instead, check a running server by its Prometheus endpoint, such as TensorFlow "
        f"Serving's: http://HOST:8501{scrape.DEFAULT_PATH}",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the report, of a server with `--url`. Returns 0 if pools are active, else 1.

    Raises:
        ModelPoolError: the endpoint cannot be read or tells of no pools.
    """
    if args.url is not None:
        url = scrape.complete_url(args.url)
        checks = server_check.check(scrape.read(url))
        print(server_check.to_json(checks, url) if args.json else server_check.render(checks))
        return 0 if all(one.passed for one in checks) else 1
    # TensorFlow's lines hide the report (the probe's trace adds a warning); errors stay.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    report = collect()
    print(to_json(report) if args.json else render(report))
    return 0 if report.healthy else 1
