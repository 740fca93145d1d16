# SPDX-License-Identifier: Apache-2.0
"""Types of the native module. Import tensorflow before it; load.py does."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

#: Name, TensorFlow's dtype, shape, NumPy's dtype, and whether it has a default value.
_Spec = tuple[str, str, tuple[int | None, ...] | None, np.dtype[Any] | None, bool]

class Model:
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...

class Signature:
    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> list[_Spec]: ...
    @property
    def outputs(self) -> list[_Spec]: ...
    def run(
        self, inputs: dict[str, Any], outputs: Iterable[str] | None
    ) -> dict[str, np.ndarray[Any, Any]]: ...

class Loaded:
    @property
    def model(self) -> Model: ...
    @property
    def signatures(self) -> list[Signature]: ...

def configure(
    dtypes: dict[int, tuple[str, np.dtype[Any] | None]],
    as_array: Callable[[Any, np.dtype[Any], str], np.ndarray[Any, Any]],
    tensorflow_error: type[Exception],
    closed_error: type[Exception],
    forked_error: type[Exception],
) -> None: ...
def load(
    path: str, tags: list[str], inter_op_threads: int | None, intra_op_threads: int | None
) -> Loaded: ...
def from_dlpack(exporter: Any) -> np.ndarray[Any, Any]: ...
def close_all(seconds: float) -> None: ...
