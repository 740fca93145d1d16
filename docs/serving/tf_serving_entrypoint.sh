#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The entry point of tensorflow/serving's image; exec lets SIGTERM reach the server.
exec tensorflow_model_server --port=8500 --rest_api_port=8501 \
  --model_name="${MODEL_NAME}" --model_base_path="${MODEL_BASE_PATH}/${MODEL_NAME}" "$@"
