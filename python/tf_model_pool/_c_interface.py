# SPDX-License-Identifier: Apache-2.0
"""The functions of `_native` over binary/c_interface.h, for a Python without a native module.

The same names, arguments and fields, so that api.py need not know which of the two it asks. Import
tensorflow before it: importing finds the library that TensorFlow loaded, and loads none.
"""

from __future__ import annotations

import ctypes
import json
import os
from types import SimpleNamespace
from typing import Any

_LIBRARY = "libtf_model_pool.so"
_VERSION = 1
_TEXTS = ("ListPools", "Totals", "LoadTotals", "Status", "Settings", "PoolOf")


def _load() -> ctypes.CDLL:
    """Raises `ImportError`: no library is loaded, or it has another version of the interface."""
    try:
        library = ctypes.CDLL(_LIBRARY, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError as error:
        raise ImportError(f"{_LIBRARY} is not loaded in this process: {error}") from error
    try:
        version = int(library.TfModelPool_InterfaceVersion())
    except AttributeError as error:
        raise ImportError(f"the {_LIBRARY} of this process has no C interface") from error
    if version != _VERSION:
        raise ImportError(
            f"the {_LIBRARY} of this process has version {version} of the C interface, "
            f"this package needs {_VERSION}"
        )
    for name in _TEXTS:
        # Not c_char_p: ctypes would turn that into bytes and lose the pointer to free.
        getattr(library, f"TfModelPool_{name}").restype = ctypes.c_void_p
    library.TfModelPool_PoolOf.argtypes = [ctypes.c_void_p]
    library.TfModelPool_FreeText.argtypes = [ctypes.c_void_p]
    library.TfModelPool_FreeText.restype = None
    library.TfModelPool_Trim.restype = ctypes.c_uint64
    return library


# CDLL, unlike PyDLL, holds no GIL while a function runs: one may wait for a thread that wants it.
_library = _load()


def _ask(name: str, *arguments: int) -> Any:
    address = getattr(_library, f"TfModelPool_{name}")(*arguments)
    if not address:
        raise MemoryError
    try:
        text = ctypes.string_at(address)
    finally:
        _library.TfModelPool_FreeText(address)
    return json.loads(os.fsdecode(text))


def list_pools() -> list[Any]:
    """All pools of this process."""
    return [SimpleNamespace(**pool) for pool in _ask("ListPools")]


def totals() -> Any:
    """The sums over all pools."""
    return SimpleNamespace(**_ask("Totals"))


def load_totals() -> Any:
    """How restores were done."""
    return SimpleNamespace(**_ask("LoadTotals"))


def pool_of(address: int) -> str:
    """The name of the pool that holds the address, "" = none."""
    return str(_ask("PoolOf", address))


def trim() -> int:
    """Gives standby memory back; returns the bytes."""
    return int(_library.TfModelPool_Trim())


def status() -> Any:
    """Whether pools are active, and why not."""
    return SimpleNamespace(**_ask("Status"))


def settings() -> dict[str, str]:
    """The settings in force."""
    return {str(name): str(value) for name, value in _ask("Settings").items()}
