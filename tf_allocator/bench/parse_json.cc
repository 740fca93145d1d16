// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/parse_json.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "google/protobuf/struct.pb.h"
#include "google/protobuf/util/json_util.h"

namespace tf_model_pool {
namespace bench {
namespace {

JsonValue FromStruct(const google::protobuf::Struct& message);

JsonValue FromValue(const google::protobuf::Value& message) {
  using Value = google::protobuf::Value;
  switch (message.kind_case()) {
    case Value::kBoolValue:
      return JsonValue(message.bool_value());
    case Value::kNumberValue:
      return JsonValue(message.number_value());
    case Value::kStringValue:
      return JsonValue(std::string(message.string_value()));
    case Value::kListValue: {
      JsonValue array = JsonValue::Array();
      for (const Value& item : message.list_value().values()) {
        array.Append(FromValue(item));
      }
      return array;
    }
    case Value::kStructValue:
      return FromStruct(message.struct_value());
    default:
      return JsonValue();
  }
}

JsonValue FromStruct(const google::protobuf::Struct& message) {
  std::vector<JsonValue::Member> members;
  for (const auto& field : message.fields()) {
    members.emplace_back(field.first, FromValue(field.second));
  }
  // The map's order differs from run to run.
  std::sort(members.begin(), members.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  return JsonValue::Object(std::move(members));
}

}  // namespace

bool ParseJson(const std::string& text, JsonValue* value, std::string* error) {
  google::protobuf::Struct message;
  const auto status =
      google::protobuf::util::JsonStringToMessage(text, &message);
  if (!status.ok()) {
    *error = std::string(status.message());
    return false;
  }
  *value = FromStruct(message);
  return true;
}

}  // namespace bench
}  // namespace tf_model_pool
