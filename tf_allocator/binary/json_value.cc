// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/binary/json_value.h"

#include <cmath>
#include <cstdio>

namespace tf_model_pool {
namespace {

// Doubles hold every integer up to here.
constexpr double kExactIntegers = 9007199254740992.0;

void AppendQuoted(const std::string& value, std::string* text) {
  *text += '"';
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      *text += '\\';
      *text += c;
    } else if (byte < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", byte);
      *text += escaped;
    } else {
      *text += c;
    }
  }
  *text += '"';
}

}  // namespace

JsonValue JsonValue::Array(std::vector<JsonValue> items) {
  JsonValue value;
  value.kind_ = Kind::kArray;
  value.items_ = std::move(items);
  return value;
}

JsonValue JsonValue::Object(std::vector<Member> members) {
  JsonValue value;
  value.kind_ = Kind::kObject;
  value.members_ = std::move(members);
  return value;
}

const JsonValue* JsonValue::Find(const std::string& name) const {
  for (const Member& member : members_) {
    if (member.first == name) return &member.second;
  }
  return nullptr;
}

void JsonValue::Set(std::string name, JsonValue value) {
  for (Member& member : members_) {
    if (member.first == name) {
      member.second = std::move(value);
      return;
    }
  }
  members_.emplace_back(std::move(name), std::move(value));
}

std::string JsonValue::ToText() const {
  std::string text;
  AppendText(&text);
  return text;
}

void JsonValue::AppendText(std::string* text) const {
  switch (kind_) {
    case Kind::kNull:
      *text += "null";
      return;
    case Kind::kBool:
      *text += bool_ ? "true" : "false";
      return;
    case Kind::kNumber:
      if (integral_) {
        *text += std::to_string(integer_);
      } else if (!std::isfinite(number_)) {
        *text += "null";
      } else if (number_ == std::floor(number_) &&
                 std::fabs(number_) <= kExactIntegers) {
        *text += std::to_string(static_cast<int64_t>(number_));
      } else {
        char digits[32];
        std::snprintf(digits, sizeof(digits), "%.17g", number_);
        *text += digits;
      }
      return;
    case Kind::kString:
      AppendQuoted(string_, text);
      return;
    case Kind::kArray: {
      *text += '[';
      const char* separator = "";
      for (const JsonValue& item : items_) {
        *text += separator;
        item.AppendText(text);
        separator = ",";
      }
      *text += ']';
      return;
    }
    case Kind::kObject: {
      *text += '{';
      const char* separator = "";
      for (const Member& member : members_) {
        *text += separator;
        AppendQuoted(member.first, text);
        *text += ':';
        member.second.AppendText(text);
        separator = ",";
      }
      *text += '}';
      return;
    }
  }
}

const char* KindName(JsonValue::Kind kind) {
  switch (kind) {
    case JsonValue::Kind::kNull:
      return "null";
    case JsonValue::Kind::kBool:
      return "a boolean";
    case JsonValue::Kind::kNumber:
      return "a number";
    case JsonValue::Kind::kString:
      return "a string";
    case JsonValue::Kind::kArray:
      return "an array";
    case JsonValue::Kind::kObject:
      return "an object";
  }
  return "";
}

}  // namespace tf_model_pool
