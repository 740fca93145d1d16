# SPDX-License-Identifier: Apache-2.0
"""Another TensorFlow that pip installed over the patched one, found from files alone.

`tensorflow` and `tensorflow-cpu` are distributions of their own with the same files, and pip lets
the later one overwrite those of the earlier one. Our library, which only the patched wheel has,
then lies beside a TensorFlow that does not call it.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import urllib.parse
from collections.abc import Sequence
from importlib.metadata import Distribution
from pathlib import Path

_LIBRARY = "tensorflow/libtf_model_pool.so"
#: What the patched wheel changes, so their sizes differ from those of any released wheel.
_CHANGED = ("tensorflow/libtensorflow_framework.so.2", "tensorflow/libtensorflow_cc.so.2")

HOW_TO_MEND = "Two commands mend it:"


@dataclasses.dataclass(frozen=True, slots=True)
class Overwritten:
    """The patched distribution, and the one whose files are there.

    Attributes:
        patched: the patched distribution, with its version.
        distribution, version: of the other one.
        directory: the package `tensorflow`.
        mend: the two pip commands that bring the patched one back.
    """

    patched: str
    distribution: str
    version: str
    directory: Path
    mend: list[str]

    def text(self) -> str:
        """What happened on the first line, and the commands on a line each."""
        happened = (
            f"{self.distribution} {self.version} was installed over {self.patched} and replaced "
            f"its files in {self.directory}. {HOW_TO_MEND}"
        )
        return "\n".join([happened, *(f"    {command}" for command in self.mend)])


def find(directory: Path, distributions: Sequence[Distribution]) -> Overwritten | None:
    """Compares the files of the package with what each distribution recorded of its own.

    Args:
        directory: the package `tensorflow`.
        distributions: those with files in it.

    Returns:
        None unless the records prove it: a library has another size than in the patched wheel,
        and the very size that another distribution recorded.
    """
    if len(distributions) < 2:
        return None
    sizes = [(distribution, _sizes(distribution)) for distribution in distributions]
    ours = next(((d, recorded) for d, recorded in sizes if _LIBRARY in recorded), None)
    if ours is None:
        return None
    patched, expected = ours
    for other, recorded in sizes:
        for name in _CHANGED:
            try:
                found = (directory.parent / name).stat().st_size
            except OSError:
                continue
            if other is not patched and found == recorded.get(name) != expected.get(name):
                return _overwritten(directory, patched, other)
    return None


def _sizes(distribution: Distribution) -> dict[str, int | None]:
    """The sizes in bytes of the libraries that it recorded; None for one without a size."""
    recorded: dict[str, int | None] = {}
    for line in (distribution.read_text("RECORD") or "").splitlines():
        name, _, rest = line.partition(",")
        if name == _LIBRARY or name in _CHANGED:
            size = rest.rpartition(",")[2]
            recorded[name] = int(size) if size.isdecimal() else None
    return recorded


def _overwritten(directory: Path, patched: Distribution, other: Distribution) -> Overwritten:
    name, version = str(patched.metadata["Name"]), patched.version
    name = name.replace("_", "-")
    other_name = str(other.metadata["Name"]).replace("_", "-")
    wheel = _wheel_of(patched) or f"dist/{name.replace('-', '_')}-{version}-*.whl"
    return Overwritten(
        f"{name} {version}",
        other_name,
        other.version,
        directory,
        [f"pip uninstall -y {other_name} {name}", f"pip install {wheel}"],
    )


def _wheel_of(distribution: Distribution) -> str | None:
    """Where pip had the wheel from, quoted for a shell, if it is still there.

    Source: "Recording the Direct URL Origin of installed distributions" of the PyPA specifications.
    """
    try:
        url = str(json.loads(distribution.read_text("direct_url.json") or "{}")["url"])
    except (ValueError, LookupError, TypeError):
        return None
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "file":
        return shlex.quote(url)
    path = Path(urllib.parse.unquote(parts.path))
    return shlex.quote(str(path)) if path.is_file() else None
