# SPDX-License-Identifier: Apache-2.0
"""Recorded requests that come with a model: `assets.extra/tf_serving_warmup_requests`.

TensorFlow Serving's format: a TFRecord file of `tensorflow.serving.PredictionLog`. What is needed
of those protos are four fields, so they are read here; `tensorflow-serving-api` would be a
dependency that names a TensorFlow of its own. Tensors are left as they are, for TensorFlow's own
`TensorProto`.
"""

from __future__ import annotations

import dataclasses
import importlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WARMUP_FILE = Path("assets.extra/tf_serving_warmup_requests")

#: As many as TensorFlow Serving takes (kMaxNumRecords in saved_model_warmup_util.h).
MAX_REQUESTS = 1000

# Field numbers, from tensorflow_serving/apis/{prediction_log,predict,model,input}.proto.
_CLASSIFY_LOG, _REGRESS_LOG, _PREDICT_LOG = 2, 3, 6
_REQUEST = 1
_MODEL_SPEC, _SIGNATURE_NAME = 1, 3
_INPUTS, _KEY, _VALUE = 2, 1, 2
_EXAMPLE_LISTS, _EXAMPLES = (1, 2), 1

_LENGTH_DELIMITED = 2


@dataclasses.dataclass(frozen=True)
class WarmupRequest:
    """One recorded request.

    Attributes:
        signature: name of the signature, "serving_default" if the record has none.
        inputs: a serialized `tensorflow.TensorProto` for each input of a Predict request.
        examples: the serialized `tf.Example`s of a Classify or Regress request, which go to the
            signature's only input.
    """

    signature: str
    inputs: dict[str, bytes] = dataclasses.field(default_factory=dict)
    examples: tuple[bytes, ...] = ()

    def arguments(self, model: Any) -> dict[str, Any]:
        """The inputs for `model.signatures[self.signature]`.

        Raises:
            ValueError: examples, and the signature has more inputs than one.
        """
        if self.examples:
            names = list(model.signatures[self.signature].inputs)
            if len(names) != 1:
                raise ValueError(
                    f"recorded tf.Examples go to a signature with one input; {self.signature!r} "
                    f"has {sorted(names)}"
                )
            return {names[0]: list(self.examples)}
        if not self.inputs:
            return {}
        tensor_pb2 = importlib.import_module("tensorflow.core.framework.tensor_pb2")
        make_ndarray = importlib.import_module("tensorflow").make_ndarray
        return {
            name: make_ndarray(tensor_pb2.TensorProto.FromString(value))
            for name, value in self.inputs.items()
        }


def read_requests(path: Path) -> Iterator[WarmupRequest | None]:
    """The requests of a warm-up file in order; None for one of another kind than
    `WarmupRequest` has (session runs, multi-inference). At most `MAX_REQUESTS`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is cut short or is not of this format; checksums are not looked at.
    """
    data = path.read_bytes()
    offset = 0
    for number in range(MAX_REQUESTS):
        if offset == len(data):
            return
        # A record: length, checksum of that, content, checksum of that.
        head, tail = 12, 4
        if offset + head > len(data):
            raise ValueError(f"{path} is cut short in record {number}")
        (length,) = struct.unpack_from("<Q", data, offset)
        end = offset + head + length
        if end + tail > len(data):
            raise ValueError(f"{path} is cut short in record {number}, or is no TFRecord file")
        try:
            yield _parse(memoryview(data)[offset + head : end])
        except (ValueError, IndexError) as error:
            raise ValueError(f"record {number} of {path} is no PredictionLog: {error}") from error
        offset = end + tail


def _parse(record: memoryview) -> WarmupRequest | None:
    for field, log in _fields(record):
        if field in (_PREDICT_LOG, _CLASSIFY_LOG, _REGRESS_LOG):
            request = _last(log, _REQUEST)
            spec = _last(request, _MODEL_SPEC)
            signature = str(_last(spec, _SIGNATURE_NAME), "utf-8") or "serving_default"
            if field == _PREDICT_LOG:
                entries = [entry for name, entry in _fields(request) if name == _INPUTS]
                inputs = {
                    str(_last(entry, _KEY), "utf-8"): bytes(_last(entry, _VALUE))
                    for entry in entries
                }
                return WarmupRequest(signature, inputs=inputs)
            lists = [
                examples
                for name, examples in _fields(_last(request, _INPUTS))
                if name in _EXAMPLE_LISTS
            ]
            examples = [
                bytes(example)
                for each in lists
                for name, example in _fields(each)
                if name == _EXAMPLES
            ]
            return WarmupRequest(signature, examples=tuple(examples))
    return None


def _last(message: memoryview, wanted: int) -> memoryview:
    """The field's value, empty if the message does not have it; the last one counts."""
    found = memoryview(b"")
    for field, value in _fields(message):
        if field == wanted:
            found = value
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the fields that have a length; others are passed over."""
    offset = 0
    while offset < len(message):
        key, offset = _varint(message, offset)
        kind = key & 7
        if kind == _LENGTH_DELIMITED:
            length, offset = _varint(message, offset)
            if offset + length > len(message):
                raise ValueError("a field is longer than its message")
            yield key >> 3, message[offset : offset + length]
            offset += length
        elif kind == 0:
            _, offset = _varint(message, offset)
        elif kind in (1, 5):
            offset += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(message: memoryview, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
