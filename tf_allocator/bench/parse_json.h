// SPDX-License-Identifier: Apache-2.0
//
// Reads JSON text, by the protobuf library inside TensorFlow.

#ifndef TF_ALLOCATOR_BENCH_PARSE_JSON_H_
#define TF_ALLOCATOR_BENCH_PARSE_JSON_H_

#include <string>

#include "tf_allocator/binary/json_value.h"

namespace tf_model_pool {
namespace bench {

// Reads one object. Returns false, and the parser's message in `error`, if
// `text` is none. Numbers become doubles.
bool ParseJson(const std::string& text, JsonValue* value, std::string* error);

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_PARSE_JSON_H_
