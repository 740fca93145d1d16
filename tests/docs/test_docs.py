# SPDX-License-Identifier: Apache-2.0
"""What the documents name exists: paths, links, commands, settings, fields."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tf_model_pool
from support import monitoring
from tf_model_pool import errors
from tf_model_pool.demo import latencies, update

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/results/*.md"),
        *ROOT.glob("patches/*.md"),
        *ROOT.glob("tf_allocator/**/*.md"),
    ],
    key=lambda path: path.as_posix(),
)

# The first part of a path that is the repository's own.
OWN = (".ci", "ci", "docs", "patches", "python", "tests", "tf_allocator")
# A path in backticks, or after `./` in a command.
OWN_PATH = "(?:" + "|".join(map(re.escape, OWN)) + r")/[\w./+-]*\w"
PATH = re.compile(r"(?<![\w/.<-])(?:\./)?(" + OWN_PATH + r"|build\.sh)(?![\w*])")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
STAGE = re.compile(r"\./build\.sh +([a-z-]+)")
SUBCOMMAND = re.compile(r"(?:python -m tf_model_pool|\btf-model-pool) +([a-z]+)")
# Not a file's name, nor a schema's (`tf_model_pool.stats/1`).
OWN_NAME = re.compile(r"(?<![\w./])(tf_model_pool(?:\.[A-Za-z_]\w*)+)(?!\.?[\w/])")
VARIABLE = re.compile(r"\bTF_MODEL_POOL(?:_[A-Z]+)*\b")


def missing_paths(text: str, base: Path) -> list[str]:
    """Paths and links in `text` of a document in `base` that do not exist."""
    # Paths of TensorFlow's sources and of users' machines have other first parts; `patches/vX`
    # and the like in running text are written with a wildcard and do not match.
    named = {path for path in PATH.findall(text) if not (ROOT / path).exists()}
    links = {
        link
        for link in LINK.findall(text)
        if "://" not in link and not (base / link).resolve().exists()
    }
    return sorted(named | links)


def unknown_stages(text: str) -> list[str]:
    """Stages of build.sh in `text` that its help does not list."""
    listed = subprocess.run(
        [str(ROOT / "build.sh"), "-h"], check=True, capture_output=True, text=True
    ).stdout
    known = set(re.findall(r"^  ([a-z-]+)\b", listed, re.MULTILINE))
    return sorted(set(STAGE.findall(text)) - known)


def unknown_subcommands(text: str) -> list[str]:
    """Subcommands of `python -m tf_model_pool` in `text` that the command line has not."""
    source = (ROOT / "python/tf_model_pool/cli.py").read_text()
    return sorted(c for c in set(SUBCOMMAND.findall(text)) if f'"{c}"' not in source)


def unknown_names(text: str) -> list[str]:
    """`tf_model_pool.X.Y` in `text` that a program has not got after `import tf_model_pool`."""
    program = (
        "import sys, json, functools, tf_model_pool\n"
        "for name in json.load(sys.stdin):\n"
        "    try:\n"
        "        functools.reduce(getattr, name.split('.')[1:], tf_model_pool)\n"
        "    except AttributeError:\n"
        "        print(name)\n"
    )
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        input=json.dumps(sorted(set(OWN_NAME.findall(text)))),
        env={**os.environ, "PYTHONPATH": str(Path(tf_model_pool.__file__).parents[1])},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()


def settings_in_source() -> set[str]:
    """Every variable that the C++ reads."""
    return set(VARIABLE.findall((ROOT / "tf_allocator/device/settings.cc").read_text()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_document_names_only_paths_that_exist(document: Path) -> None:
    assert missing_paths(document.read_text(), document.parent) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_document_names_only_commands_that_exist(document: Path) -> None:
    text = document.read_text()
    assert unknown_stages(text) == []
    assert unknown_subcommands(text) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_document_names_only_settings_that_exist(document: Path) -> None:
    assert set(VARIABLE.findall(document.read_text())) <= settings_in_source()


def test_importing_the_package_is_enough_for_the_names_in_the_documents() -> None:
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    assert "tf_model_pool.prometheus.register" in OWN_NAME.findall(text)
    assert unknown_names(text) == []


def test_the_reference_has_every_setting_and_field() -> None:
    reference = (ROOT / "docs/reference.md").read_text()
    fields = {
        field.name
        for record in (tf_model_pool.PoolStats, tf_model_pool.Totals)
        for field in dataclasses.fields(record)
    }
    absent = [n for n in sorted(settings_in_source() | fields) if f"`{n}`" not in reference]
    assert absent == []


def names_for_python() -> set[str]:
    """Every option of `load` and `HotModel`, every method of theirs, every event and its fields."""
    found: set[str] = set()
    for function in (tf_model_pool.load, tf_model_pool.HotModel.__init__):
        found |= set(inspect.signature(function).parameters) - {"self"}
    for kind in (tf_model_pool.LoadedModel, tf_model_pool.HotModel):
        found |= {name for name in vars(kind) if not name.startswith("_")}
    for event in tf_model_pool.HotEvent.__subclasses__():
        found |= {event.__name__, *(field.name for field in dataclasses.fields(event))}
    return found


def test_the_reference_has_every_option_method_and_event() -> None:
    names = names_for_python()
    assert {"retry_max_seconds", "wait_for", "LoadFailed", "retry_seconds"} <= names
    reference = (ROOT / "docs/reference.md").read_text()
    assert [n for n in sorted(names) if not re.search(rf"`{n}\b", reference)] == []


def test_the_reference_has_a_row_for_each_public_function() -> None:
    reference = (ROOT / "docs/reference.md").read_text()
    functions = [
        name
        for name in tf_model_pool.__all__
        if inspect.isfunction(getattr(tf_model_pool, name)) or name == "HotModel"
    ]
    assert "release" in functions
    assert [name for name in functions if f"| `{name}(" not in reference] == []


def test_the_reference_has_a_row_for_each_error() -> None:
    _, _, section = (ROOT / "docs/reference.md").read_text().partition("\n### Errors\n")
    rows = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    root = tf_model_pool.ModelPoolError
    known = [
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, root) and kind is not root
    ]
    assert sorted(rows) == sorted(known)


def test_the_guide_has_each_metric_of_a_python_process_with_its_kind_and_labels() -> None:
    rows = re.findall(
        r"^\| `(tf_model_pool_\w+)` \| (\w+) \|([^|]*)\|",
        (ROOT / "docs/python.md").read_text(),
        re.MULTILINE,
    )
    shown = [
        (name, (kind, frozenset(re.findall(r"`(\w+)`", labels)))) for name, kind, labels in rows
    ]
    assert sorted(shown) == sorted(monitoring.declared_by_python().items())


def test_the_table_of_names_in_tuning_has_metrics_and_fields_that_there_are() -> None:
    _, _, section = (ROOT / "docs/tuning.md").read_text().partition("\n### Names in Python\n")
    section = section.partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|([^|]*)\|", section, re.MULTILINE)
    serving = {
        name.removeprefix(monitoring.SERVING)
        for name in monitoring.declared(ROOT)
        if name.startswith(monitoring.SERVING)
    }
    assert {name for name, _, _ in rows} == serving
    fields = {
        f"{record.__name__}.{field.name}"
        for record in (tf_model_pool.PoolStats, tf_model_pool.Totals, tf_model_pool.LoadTotals)
        for field in dataclasses.fields(record)
    }
    for _, named, metrics in rows:
        assert set(re.findall(r"`(\w+\.\w+)`", named)) <= fields
        assert monitoring.asked(metrics) <= set(monitoring.declared_by_python())


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/examples/*.py")), ids=lambda p: p.name)
def test_an_example_is_under_a_hundred_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 100


def variables_of_the_build() -> list[str]:
    """Every variable that the help of build.sh lists under "environment"."""
    listed = subprocess.run(
        [str(ROOT / "build.sh"), "-h"], check=True, capture_output=True, text=True
    ).stdout
    return re.findall(r"^  ([A-Z_]+) ", listed.partition("\nenvironment:")[2], re.MULTILINE)


def test_the_quickstart_has_every_variable_of_the_build() -> None:
    quickstart = (ROOT / "docs/quickstart.md").read_text()
    names = variables_of_the_build()
    assert "PACKAGE" in names
    assert [name for name in names if not re.search(rf"\b{name}\b", quickstart)] == []
    assert "PACKAGE=tensorflow ./build.sh" in quickstart


def test_the_quickstart_shows_the_demonstration_as_it_prints() -> None:
    quickstart = (ROOT / "docs/quickstart.md").read_text()
    _, _, after = quickstart.partition("    Serving through updates")
    head, *rows = [line.strip() for line in after.splitlines()[2:6]]
    printed = latencies.table([1.0], [1.0], 1).splitlines()
    assert head == printed[0].strip()
    for shown, row in zip(rows, printed[1:], strict=True):
        assert re.sub(r"[\d,.]+", "N", shown).split() == re.sub(r"[\d,.]+", "N", row).split()
    described = f"{update.UPDATES} updates, {update.RATE:g} requests/s of {update.CANDIDATES}"
    assert described in quickstart


def test_the_checkers_see_what_is_wrong() -> None:
    # GIVEN a document that names things that do not exist
    text = (
        "see `tests/nowhere.py` and [there](docs/nowhere.md); run `./build.sh nothing` and "
        "`python -m tf_model_pool nothing` with TF_MODEL_POOL_NOTHING, or call "
        "tf_model_pool.stats.nothing()"
    )
    # THEN each checker reports its own
    assert missing_paths(text, ROOT) == ["docs/nowhere.md", "tests/nowhere.py"]
    assert unknown_stages(text) == ["nothing"]
    assert unknown_subcommands(text) == ["nothing"]
    assert unknown_names(text) == ["tf_model_pool.stats.nothing"]
    assert unknown_subcommands("`tf-model-pool nowhere`") == ["nowhere"]
    assert "TF_MODEL_POOL_NOTHING" not in settings_in_source()
