# SPDX-License-Identifier: Apache-2.0
"""C++ LoadSavedModel: variables set without running the restore op, off the requests' threads."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.children import Places, run_to_end
from support.modes import child_environment
from support.native import Report, run_probe

#: Model -> whether its restore op only assigns, or what makes it more than that.
PLANS: Mapping[str, str] = {
    "ctr/1": "",
    "ctr/2": "",
    "big/1": "",
    "v1_resource/1": "",
    "v1_partitioned/1": "a slice of a variable is restored",
    "v1_reference/1": "it has a node of op Assign",
}

RunLoad = Callable[..., Report]


@pytest.fixture(scope="module")
def load(probe: Path) -> RunLoad:
    """Runs `load` on directories, with settings."""

    def run(*directories: Path, kind: str = "full", **settings: str) -> Report:
        extra = {f"TF_MODEL_POOL_{name}": value for name, value in settings.items()}
        if "TF_MODEL_POOL_POOLS" in extra:
            extra["TF_MODEL_POOL"] = extra.pop("TF_MODEL_POOL_POOLS")
        output = run_to_end(
            [str(probe), "load", kind, *map(str, directories)], child_environment("onednn", extra)
        )
        return Report([json.loads(line) for line in output.splitlines()])

    return run


@pytest.fixture(scope="module")
def directories(places: Places) -> list[Path]:
    """A version of every kind of model."""
    return [places.models / name for name in PLANS]


def _contents(report: Report, *without: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in without} for line in report.of("content")]


@pytest.fixture(scope="module")
def direct(load: RunLoad, directories: list[Path]) -> Report:
    """All models loaded with the default settings."""
    return load(*directories)


@pytest.fixture(scope="module")
def by_graph(load: RunLoad, directories: list[Path]) -> Report:
    """All models loaded as TensorFlow loads them."""
    return load(*directories, POOLS="off")


def test_variables_are_those_that_the_restore_op_makes(direct: Report, by_graph: Report) -> None:
    assert len(_contents(direct)) > len(PLANS)
    assert _contents(direct, "pool") == _contents(by_graph, "pool")
    assert {line["status"] for line in direct.of("load")} == {"OK"}


def test_variables_lie_in_the_pool_of_their_version(direct: Report) -> None:
    for line in direct.of("content"):
        assert line["pool"] == ("/".join(Path(line["model"]).parts[-2:]) if line["bytes"] else "")


def test_pools_hold_what_they_hold_when_the_graph_restores(
    load: RunLoad, direct: Report, directories: list[Path]
) -> None:
    graph = load(*directories, DIRECT_RESTORE="off")
    assert _contents(graph) == _contents(direct)
    fields = ("name", "slot", "bytes_reserved", "num_mappings", "state")
    pools = [
        [[pool[field] for field in fields] for pool in report.state("loaded")["pools"]]
        for report in (direct, graph)
    ]
    assert pools[0] == pools[1]
    assert [line["direct_restores"] for line in graph.of("load")] == [0] * len(directories)


def test_only_restores_that_do_more_than_assign_run_the_graph(direct: Report) -> None:
    done, run = 0, 0
    for line, why in zip(direct.of("load"), PLANS.values(), strict=True):
        assert (line["direct_restores"] > done) == (not why), line
        assert (line["graph_restores"] > run) == bool(why), line
        if why:
            assert line["reason"].startswith(why)
        done, run = line["direct_restores"], line["graph_restores"]


def test_a_bundle_without_its_graph_is_restored_like_one_with_it(
    load: RunLoad, directories: list[Path], direct: Report
) -> None:
    report = load(*directories, kind="lite")
    # Not every release's bundle shows what is in its session.
    assert _contents(report) in ([], _contents(direct))
    assert [line["status"] for line in report.of("load")] == ["OK"] * len(directories)
    counts = ("direct_restores", "graph_restores", "reason")
    assert [[line[c] for c in counts] for line in report.of("load")] == [
        [line[c] for c in counts] for line in direct.of("load")
    ]


def test_a_bundle_without_its_graph_reads_it_again_for_variables_alone(
    probe: Path, places: Places, tmp_path: Path
) -> None:
    def times_read(pools: str) -> int:
        log = tmp_path / "log"
        strace = ["strace", "-f", "-qq", "-e", "trace=openat", "-o", str(log)]
        frozen = str(places.models / "v1_frozen" / "1")
        environment = child_environment("onednn", {"TF_MODEL_POOL": pools})
        run_to_end([*strace, str(probe), "load", "lite", frozen], environment)
        return log.read_text().count("/saved_model.pb")

    assert times_read("on") == times_read("off") > 0


#: Gives the restore function of a SavedModel two identities that are each other's input.
CIRCLE = """
import sys
from tensorflow.core.protobuf import saved_model_pb2

path = sys.argv[1]
model = saved_model_pb2.SavedModel.FromString(open(path, "rb").read())
for function in model.meta_graphs[0].graph_def.library.function:
    nodes = {node.name: node for node in function.node_def}
    for assign in [n for n in function.node_def if n.op == "AssignVariableOp"]:
        source = nodes[assign.input[1].split(":")[0]]
        if source.op != "Identity" or "RestoreV2" not in {n.op for n in nodes.values()}:
            continue
        circle = function.node_def.add(name="circle", op="Identity", input=[assign.input[1]])
        circle.attr["T"].CopyFrom(source.attr["T"])
        source.input[0] = "circle:output:0"
        open(path, "wb").write(model.SerializeToString())
        sys.exit(0)
sys.exit("no restore function")
"""


def test_a_restore_that_goes_round_in_circles_gives_tensorflows_own_error(
    load: RunLoad, places: Places, tmp_path: Path
) -> None:
    broken = tmp_path / "ctr" / "1"
    shutil.copytree(places.models / "ctr" / "1", broken)
    run_to_end([sys.executable, "-c", CIRCLE, str(broken / "saved_model.pb")], os.environ)
    (ours,), (theirs,) = load(broken).of("load"), load(broken, POOLS="off").of("load")
    assert ours["status"] == theirs["status"] != "OK"


def test_a_session_that_was_dropped_leaves_its_name(probe: Path, places: Places) -> None:
    (line,) = run_probe(probe, "onednn", "names", "8", places.models / "ctr" / "1").lines
    assert line["status"] == "OK"


def _break_data(variables: Path) -> None:
    data = variables / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0xFF
    data.write_bytes(content)


def _cut_data(variables: Path) -> None:
    data = variables / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])


def _cut_index(variables: Path) -> None:
    index = variables / "variables.index"
    index.write_bytes(index.read_bytes()[:100])


def _remove_data(variables: Path) -> None:
    (variables / "variables.data-00000-of-00001").unlink()


@pytest.mark.parametrize("damage", [_break_data, _cut_data, _cut_index, _remove_data])
@pytest.mark.parametrize("name", ["ctr", "big"])  # the table of the latter is read in pieces
def test_a_damaged_checkpoint_gives_tensorflows_own_error(
    name: str, damage: Callable[[Path], None], load: RunLoad, places: Places, tmp_path: Path
) -> None:
    # GIVEN a model whose checkpoint is damaged, and a whole one
    broken = tmp_path / name / "1"
    shutil.copytree(places.models / name / "1", broken)
    damage(broken / "variables")
    whole = places.models / "ctr" / "2"
    # WHEN both are loaded, by us and by TensorFlow alone
    ours, theirs = load(broken, whole), load(broken, whole, POOLS="off")
    # THEN the same is said of both
    said = [[line["status"] for line in report.of("load")] for report in (ours, theirs)]
    assert said[0] == said[1]
    assert said[0][0] != "OK"
    assert said[0][1] == "OK"
    # AND nothing of the damaged one is left in a pool
    pools = ours.state("loaded")["pools"]
    assert {pool["name"] for pool in pools if pool["bytes_in_use"]} == set()


#: Bytes that are read at once (tensor_reader.cc).
PIECE = 512 << 10


def _pauses(probe: Path, when: str, directory: Path, **settings: str) -> Mapping[str, int]:
    extra = {f"TF_MODEL_POOL_{name}": value for name, value in settings.items()}
    (line,) = run_probe(probe, "onednn", "pauses", when, directory, extra=extra).lines
    return line


def test_a_load_pauses_again_and_again_while_models_serve(probe: Path, places: Places) -> None:
    # GIVEN a table of many pieces
    directory = places.models / "big" / "1"
    pieces = _data(directory).stat().st_size // PIECE
    assert pieces > 100
    # WHEN it is loaded alone, and while a model serves, gives way or does not
    alone = _pauses(probe, "alone", directory)
    serving = _pauses(probe, "serving", directory)
    normal = _pauses(probe, "serving", directory, LOAD_PRIORITY="normal")
    # THEN the thread sleeps between pieces only where it is to give way
    assert serving["sleeps"] - alone["sleeps"] > pieces // 4
    assert serving["sleeps"] - normal["sleeps"] > pieces // 4
    assert serving["reads"] >= pieces


def test_reading_keeps_to_its_limit(probe: Path, places: Places) -> None:
    # GIVEN a table of many pieces, each of which may be begun 5 ms after the one before
    directory = places.models / "big" / "1"
    pieces = _data(directory).stat().st_size // PIECE
    # WHEN it is loaded while nothing serves
    limited = _pauses(probe, "alone", directory, READ_MB_PER_S="100")
    free = _pauses(probe, "alone", directory)
    # THEN the thread waits for its turn, for some of them at least on a slow machine
    assert limited["sleeps"] - free["sleeps"] >= pieces // 4
    assert limited["reads"] == pytest.approx(free["reads"], rel=0.1)


def _data(directory: Path) -> Path:
    return directory / "variables" / "variables.data-00000-of-00001"


def _cached_bytes(path: Path) -> int:
    """How much of a file lies in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
        if libc.mincore(ctypes.addressof(first), size, pages) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        del first
        return sum(page & 1 for page in pages.raw[: len(pages)]) * mmap.PAGESIZE


@pytest.mark.parametrize("name", ["ctr", "big"])  # the table of the latter is read in pieces
def test_the_page_cache_lets_go_of_what_was_read(
    name: str, load: RunLoad, places: Places, tmp_path: Path
) -> None:
    # GIVEN a checkpoint that is on disk, and in the page cache
    directory = tmp_path / name / "1"
    shutil.copytree(places.models / name / "1", directory)
    data = _data(directory)
    with data.open("r+b") as file:
        os.fsync(file)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if _cached_bytes(data):
        pytest.skip("the temporary directory is not on a disk: its files are the page cache")
    kept = load(directory)
    # But for entries that are no variables, at the end.
    assert _cached_bytes(data) > 0.95 * data.stat().st_size
    # WHEN it is loaded with the setting
    dropped = load(directory, DROP_CACHE="on")
    # THEN it is not in the page cache any more, and the variables are the same
    assert _cached_bytes(data) < 0.05 * data.stat().st_size
    assert _contents(dropped) == _contents(kept)


def test_requests_that_no_load_prepared_are_counted_and_the_next_version_is_prepared_for_them(
    probe: Path, places: Places
) -> None:
    # GIVEN two versions, served on threads that did not load them
    directories = [places.models / "ctr" / version for version in ("1", "2")]
    lines = run_probe(probe, "onednn", "kinds", *directories).lines
    first, second = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    # THEN the signature is prepared, a part of its outputs is not, and is counted once
    assert [(line["when"], line["requests"]) for line in first] == [
        ("loaded", 0),
        ("whole", 0),
        ("part", 1),
        ("part again", 1),
    ]
    # AND the second version is prepared for that as well
    assert {line["requests"] for line in second} == {1}


def test_nothing_is_prepared_where_the_setting_says_so(probe: Path, places: Places) -> None:
    directories = [places.models / "ctr" / version for version in ("1", "2")]
    extra = {"TF_MODEL_POOL_PREPARE_RUNS": "0"}
    lines = run_probe(probe, "onednn", "kinds", *directories, extra=extra).lines
    assert [line["requests"] for line in lines] == [0, 1, 2, 2, 2, 3, 4, 4]
