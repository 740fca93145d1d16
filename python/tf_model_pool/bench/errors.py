# SPDX-License-Identifier: Apache-2.0
"""Errors of the benchmark."""

from __future__ import annotations

import importlib
from typing import Any

from tf_model_pool.errors import ModelPoolError


class BenchError(ModelPoolError):
    """The benchmark cannot go on; the text says what was found and what was expected."""


class MissingPackageError(BenchError):
    """A Python package of the extra `bench` is not installed."""


class MissingLibraryError(BenchError):
    """A malloc library or the driver is not installed; the text says how to get it."""


class ModelError(BenchError):
    """A model, its signature or its recorded requests cannot be used."""


class ResultError(BenchError):
    """A result file is missing, damaged, or not of the schema that this version reads."""


class DriverError(BenchError):
    """The native driver failed."""


#: Requirement to name if a module is missing; the pins are those of pyproject.toml.
REQUIREMENTS = {
    "matplotlib": "matplotlib==3.11.2",
    "numpy": "numpy",
    "plotly": "plotly==7.1.0",
    "tqdm": "tqdm==4.70.1",
}


def require(module: str) -> Any:
    """Imports a module of the extra `bench`.

    Raises:
        MissingPackageError: with the pip command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = (error.name or module).partition(".")[0]
        requirement = REQUIREMENTS.get(top, top)
        raise MissingPackageError(
            f"the Python package {top} is missing; install it: pip install {requirement}\n"
            f"(all that the benchmark needs: pip install {' '.join(sorted(REQUIREMENTS.values()))})"
        ) from error
