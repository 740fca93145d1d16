# SPDX-License-Identifier: Apache-2.0
"""The environments that are compared, and the native driver in one of them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

from tf_model_pool.bench.errors import BenchError, MissingLibraryError

DRIVER = Path("tf_model_pool/bin/swap_driver")

# Runs in the environment; imports neither TensorFlow nor this package.
_PROBE = r"""
import hashlib, importlib.metadata as m, importlib.util, json, pathlib, platform
spec = importlib.util.find_spec("tensorflow")
if spec is None or not spec.origin:
    print("null")
else:
    here = pathlib.Path(spec.origin).parent
    found = {"tensorflow": str(here), "python": platform.python_version()}
    for name in ("tensorflow-cpu", "tensorflow", "tensorflow-intel", "tf-nightly-cpu"):
        try:
            d = m.distribution(name)
        except m.PackageNotFoundError:
            continue
        record = d.read_text("RECORD") or ""
        found |= {"distribution": name, "version": d.version,
                  "record_sha256": hashlib.sha256(record.encode()).hexdigest()}
        break
    info = here.parent / "tf_model_pool" / "build_info.json"
    found["build_info"] = json.loads(info.read_text()) if info.is_file() else None
    found["patched"] = (here / "libtf_model_pool.so").is_file()
    print(json.dumps(found))
"""


@dataclasses.dataclass(frozen=True)
class Wheel:
    """An environment with TensorFlow.

    Attributes:
        tensorflow: its `tensorflow` directory.
        details: distribution, version, sha256 of its RECORD, build info of a patched one.
    """

    name: str
    python: Path
    tensorflow: Path
    version: str
    patched: bool
    details: dict[str, Any]


def find_wheel(name: str, python: Path) -> Wheel:
    """Reads an environment.

    Raises:
        BenchError: no interpreter there, no TensorFlow in it, or of the wrong kind.
    """
    how = f"--{name}-python {python}"
    try:
        child = subprocess.run(
            [str(python), "-I", "-c", _PROBE], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BenchError(
            f"{how}: {error.strerror}; `./build.sh test` makes both environments, or name an "
            f"interpreter whose environment has the {name} TensorFlow"
        ) from error
    lines = child.stdout.strip().splitlines()
    found = json.loads(lines[-1]) if child.returncode == 0 and lines else None
    if found is None:
        raise BenchError(f"{how}: no TensorFlow there {child.stderr.strip()[-200:]}".strip())
    if found["patched"] != (name == "patched"):
        raise BenchError(
            f"{how}: this environment has the {'patched' if found['patched'] else 'stock'} "
            f"TensorFlow, expected the {name} one"
        )
    return Wheel(
        name,
        python,
        Path(found["tensorflow"]),
        str(found.get("version", "unknown")),
        found["patched"],
        {**found, "interpreter": str(python)},
    )


def find_driver(given: Path | None, wheels: dict[str, Wheel]) -> Path:
    """The native driver: as given, else the patched wheel's. Raises `MissingLibraryError`."""
    if given is not None:
        if not given.is_file():
            raise MissingLibraryError(f"--driver {given} does not exist")
        return given.resolve()
    for wheel in wheels.values():
        path = wheel.tensorflow.parent / DRIVER
        if path.is_file():
            return path
    raise MissingLibraryError(
        f"the native driver ({DRIVER}) is in none of the environments "
        f"({', '.join(str(w.tensorflow.parent) for w in wheels.values()) or 'none given'}); "
        "install the patched wheel (./build.sh env), or build the target swap_driver of "
        "tf_allocator/CMakeLists.txt and name it with --driver"
    )
