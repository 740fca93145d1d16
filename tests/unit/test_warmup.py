# SPDX-License-Identifier: Apache-2.0
"""The reader of warm-up files, on bytes that are written here, field by field."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.hot_models import FakeLoader, FakeModel, Stepper, write_version
from tf_model_pool import warmup
from tf_model_pool.warmup import WARMUP_FILE, WarmupRequest, read_requests


def field(number: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def record(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + b"crc1" + content + b"crc2"


def predict_log(signature: str, **inputs: bytes) -> bytes:
    spec = field(1, "ctr") + field(2, field(1, b"")) + field(3, signature)
    entries = b"".join(field(2, field(1, n) + field(2, v)) for n, v in inputs.items())
    # log_metadata comes first, and fields that nobody reads in between.
    unread = varint(9 << 3) + varint(1 << 40) + varint(10 << 3 | 5) + b"four"
    return field(1, b"meta") + field(6, field(1, field(1, spec) + unread + entries))


def write(path: Path, *records: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(record, records)))
    return path


def test_predict_requests_have_a_signature_and_tensors(tmp_path: Path) -> None:
    path = write(
        tmp_path / "requests",
        predict_log("rank", ids=b"a tensor", user=b"t" * 300),
        predict_log("", ids=b""),
    )
    assert list(read_requests(path)) == [
        WarmupRequest("rank", {"ids": b"a tensor", "user": b"t" * 300}),
        WarmupRequest("serving_default", {"ids": b""}),
    ]


@pytest.mark.parametrize("log", [2, 3])  # classify, regress
@pytest.mark.parametrize("kind", [1, 2])  # a list, a list with a context
def test_classify_and_regress_requests_have_examples(tmp_path: Path, log: int, kind: int) -> None:
    examples = field(kind, field(1, b"first") + field(1, b"second"))
    request = field(1, field(3, "classify")) + field(2, examples)
    (found,) = read_requests(write(tmp_path / "requests", field(log, field(1, request))))
    assert found == WarmupRequest("classify", examples=(b"first", b"second"))
    one_input = SimpleNamespace(signatures={"classify": SimpleNamespace(inputs={"x": "a spec"})})
    assert found is not None
    assert found.arguments(one_input) == {"x": [b"first", b"second"]}
    two_inputs = SimpleNamespace(signatures={"classify": SimpleNamespace(inputs=("x", "y"))})
    with pytest.raises(ValueError, match=r"with one input; 'classify' has \['x', 'y'\]"):
        found.arguments(two_inputs)


def test_other_kinds_are_left_out(tmp_path: Path) -> None:
    assert list(read_requests(write(tmp_path / "requests", field(5, field(1, b"run"))))) == [None]


def test_as_many_as_serving_replays_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmup, "MAX_REQUESTS", 3)
    path = write(tmp_path / "requests", *[predict_log("", ids=b"1")] * 5)
    assert len(list(read_requests(path))) == 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"short", "cut short in record 0"),
        (record(predict_log("", ids=b"1"))[:-1], "cut short in record 0, or is no TFRecord"),
        (b"x" * 100, "is no TFRecord file"),
        (record(b"\x32\xff"), "record 0 of .* is no PredictionLog"),
        (record(b"\x32\x7fshort"), "a field is longer than its message"),
        (record(b"\x33"), "wire type 3"),
        (record(b"\xff" * 11), "more than 64 bits"),
        (record(field(6, field(1, field(1, field(3, b"\xff"))))), "is no PredictionLog"),
    ],
)
def test_a_damaged_file_is_a_value_error(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "requests"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=text):
        list(read_requests(path))


def test_a_version_with_a_damaged_file_does_not_serve(tmp_path: Path) -> None:
    path = write_version(tmp_path, 1) / WARMUP_FILE
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    stepper = Stepper(tmp_path)
    stepper.settle()
    assert stepper.serving is None
    assert "cut short in record 0" in stepper.manager.versions()[0].error
    # The file is not looked at with another kind of warm-up.
    other = Stepper(tmp_path, warmup=None)
    other.settle()
    assert other.serving == 1


def test_the_file_is_replayed_before_a_version_serves(tmp_path: Path) -> None:
    examples = field(1, field(1, b"one") + field(1, b"two"))
    classify = field(2, field(1, field(1, field(3, "rank")) + field(2, examples)))
    write(write_version(tmp_path, 1) / WARMUP_FILE, field(5, b""), classify)
    called = []

    class Rank:
        inputs = ("x",)

        def __call__(self, inputs: object) -> None:
            called.append((stepper.serving, inputs))

    class Loader(FakeLoader):
        def __call__(self, path: str) -> FakeModel:
            model = super().__call__(path)
            model.signatures = {"rank": Rank()}
            return model

    stepper = Stepper(tmp_path, Loader())
    stepper.settle()
    assert called == [(None, {"x": [b"one", b"two"]})]
    assert stepper.serving == 1
