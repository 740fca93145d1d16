# SPDX-License-Identifier: Apache-2.0
"""Parses configuration files of TensorFlow Serving, and prints what they say as JSON.

    python parse_serving_configs.py DIRECTORY...

Of each directory, in order: an object with what models.config, platform.config and
monitoring.config say, or the error as a string. A process of its own, because it imports
TensorFlow. The published protos (tensorflow-serving-api)
have the first kind of file and the frame of the second. The messages that they lack are declared
here with the fields that the examples use, under the names and numbers of TensorFlow Serving's
session_bundle_config.proto, saved_model_bundle_source_adapter.proto and monitoring_config.proto.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    json_format,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.config import model_server_config_pb2, platform_config_pb2

_INT32 = descriptor_pb2.FieldDescriptorProto.TYPE_INT32
_BOOL = descriptor_pb2.FieldDescriptorProto.TYPE_BOOL
_STRING = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_OPTIONAL = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
_REPEATED = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED

Field = tuple[str, int, Any]
_MESSAGES: dict[str, tuple[Field, ...]] = {
    "ModelWarmupOptions": (
        ("num_request_iterations", 1, ".google.protobuf.Int32Value"),
        ("num_model_warmup_threads", 2, ".google.protobuf.Int32Value"),
    ),
    "SessionBundleConfig": (
        ("session_config", 2, ".tensorflow.ConfigProto"),
        ("session_run_load_threadpool_index", 4, ".google.protobuf.Int32Value"),
        ("saved_model_tags", 6, [_STRING]),
        ("enable_model_warmup", 779, _BOOL),
        ("model_warmup_options", 780, ".tensorflow.serving.ModelWarmupOptions"),
        ("remove_unused_fields_from_bundle_metagraph", 782, _BOOL),
    ),
    "SavedModelBundleSourceAdapterConfig": (
        ("legacy_config", 1000, ".tensorflow.serving.SessionBundleConfig"),
    ),
    "PrometheusConfig": (("enable", 1, _BOOL), ("path", 2, _STRING)),
    "MonitoringConfig": (("prometheus_config", 1, ".tensorflow.serving.PrometheusConfig"),),
}


def _declare(pool: descriptor_pool.DescriptorPool) -> None:
    file = descriptor_pb2.FileDescriptorProto(
        name="tf_model_pool_test/unpublished.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[config_pb2.DESCRIPTOR.name, wrappers_pb2.DESCRIPTOR.name],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            added = message.field.add(name=field, number=number, label=_OPTIONAL)
            if isinstance(kind, list):
                added.label, kind = _REPEATED, kind[0]
            if isinstance(kind, str):
                added.type, added.type_name = added.TYPE_MESSAGE, kind
            else:
                added.type = kind
    pool.AddSerializedFile(file.SerializeToString())


def parse(directory: Path) -> dict[str, Any]:
    """What the three files say. Raises `text_format.ParseError`."""
    pool = descriptor_pool.Default()
    monitoring = pool.FindMessageTypeByName("tensorflow.serving.MonitoringConfig")
    messages = {
        "models": model_server_config_pb2.ModelServerConfig(),
        "platform": platform_config_pb2.PlatformConfigMap(),
        "monitoring": message_factory.GetMessageClass(monitoring)(),
    }
    found = {}
    for name, message in messages.items():
        text = (directory / f"{name}.config").read_text()
        text_format.Parse(text, message, descriptor_pool=pool)
        found[name] = json_format.MessageToDict(
            message, preserving_proto_field_name=True, descriptor_pool=pool
        )
    return found


def _answer(directory: Path) -> dict[str, Any] | str:
    try:
        return parse(directory)
    except text_format.ParseError as error:
        return str(error)


if __name__ == "__main__":
    _declare(descriptor_pool.Default())
    print(json.dumps([_answer(Path(name)) for name in sys.argv[1:]]))
