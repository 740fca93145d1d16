# SPDX-License-Identifier: Apache-2.0
"""What of `tf_model_pool.load` needs no TensorFlow: arguments, records, errors, imports."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tf_model_pool
from tf_model_pool import TensorSpec, api

PYTHON = Path(__file__).resolve().parents[2] / "python"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"inter_op_threads": -1}, ValueError, "inter_op_threads is 0 to 1024 or None, got -1"),
        ({"intra_op_threads": 0}, ValueError, "intra_op_threads is 1 to 1024 or None, got 0"),
        ({"inter_op_threads": 1.0}, TypeError, r"is an int or None, got float: 1\.0"),
        ({"intra_op_threads": True}, TypeError, "is an int or None, got bool: True"),
        ({"tags": (1,)}, TypeError, "tags are str, got int: 1"),
    ],
)
def test_arguments_are_checked_before_anything_is_imported(
    arguments: dict[str, Any], error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "find_tensorflow", lambda: pytest.fail("looked for TensorFlow"))
    with pytest.raises(error, match=text):
        tf_model_pool.load("nowhere", **arguments)


def test_a_path_is_a_str_or_has_one() -> None:
    with pytest.raises(TypeError):
        tf_model_pool.load(7)  # type: ignore[arg-type]


def test_without_tensorflow_the_error_says_so() -> None:
    program = (
        "import sys, warnings; warnings.simplefilter('ignore'); import tf_model_pool\n"
        "tf_model_pool.api.find_tensorflow = lambda: None\n"
        "try: tf_model_pool.load('nowhere')\n"
        "except tf_model_pool.NotActiveError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(PYTHON)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("TensorFlow is not installed")


def test_importing_it_imports_neither_tensorflow_nor_numpy() -> None:
    program = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from tf_model_pool import LoadedModel, Signature, load\n"
        "print([m for m in ('tensorflow', 'numpy', 'tf_model_pool._session') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(PYTHON)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_an_input_is_written_as_its_type_and_shape() -> None:
    spec = TensorSpec("ids", "int64", (None, 8), None)
    assert str(spec) == "ids: int64 [?, 8]"
    assert str(dataclasses.replace(spec, shape=())) == "ids: int64 []"
    assert str(dataclasses.replace(spec, shape=None)) == "ids: int64 of any shape"


def test_an_error_of_tensorflow_has_its_code_and_text() -> None:
    error = tf_model_pool.TensorFlowError(5, "no such model")
    assert (error.code, error.code_name, error.message) == (5, "NOT_FOUND", "no such model")
    assert str(error) == "NOT_FOUND: no such model"
    assert tf_model_pool.TensorFlowError(99, "").code_name == "code 99"
    assert issubclass(tf_model_pool.TensorFlowError, tf_model_pool.ModelPoolError)
