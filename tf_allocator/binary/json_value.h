// SPDX-License-Identifier: Apache-2.0
//
// A JSON document in memory, for the C interface and for the benchmark's
// driver. Reading text is bench/parse_json.h, which needs TensorFlow's
// libraries; this file needs nothing.

#ifndef TF_ALLOCATOR_BINARY_JSON_VALUE_H_
#define TF_ALLOCATOR_BINARY_JSON_VALUE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tf_model_pool {

class JsonValue {
 public:
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };
  using Member = std::pair<std::string, JsonValue>;

  JsonValue() = default;
  JsonValue(bool value) : kind_(Kind::kBool), bool_(value) {}  // NOLINT
  JsonValue(double value)                                      // NOLINT
      : kind_(Kind::kNumber), number_(value) {}
  // Integers keep all their digits.
  JsonValue(int64_t value)  // NOLINT
      : kind_(Kind::kNumber),
        integral_(true),
        integer_(value),
        number_(static_cast<double>(value)) {}
  // Below 2**63: sizes and counts.
  JsonValue(uint64_t value)  // NOLINT
      : JsonValue(static_cast<int64_t>(value)) {}
  JsonValue(int value)  // NOLINT
      : JsonValue(static_cast<int64_t>(value)) {}
  JsonValue(std::string value)  // NOLINT
      : kind_(Kind::kString), string_(std::move(value)) {}
  JsonValue(const char* value)  // NOLINT
      : JsonValue(std::string(value)) {}

  static JsonValue Array(std::vector<JsonValue> items = {});
  // Members keep their order.
  static JsonValue Object(std::vector<Member> members = {});

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::kNull; }

  // Each is meaningful for its kind only, and empty or 0 for others.
  bool boolean() const { return bool_; }
  double number() const { return number_; }
  const std::string& string() const { return string_; }
  const std::vector<JsonValue>& items() const { return items_; }
  const std::vector<Member>& members() const { return members_; }

  // The member called `name`; nullptr if there is none.
  const JsonValue* Find(const std::string& name) const;

  // For building.
  void Append(JsonValue item) { items_.push_back(std::move(item)); }
  void Set(std::string name, JsonValue value);

  // One line of JSON. Numbers that JSON cannot say become null.
  std::string ToText() const;

 private:
  void AppendText(std::string* text) const;

  Kind kind_ = Kind::kNull;
  bool bool_ = false;
  bool integral_ = false;
  int64_t integer_ = 0;
  double number_ = 0;
  std::string string_;
  std::vector<JsonValue> items_;
  std::vector<Member> members_;
};

// "null", "a boolean", "a number" ...: for error messages.
const char* KindName(JsonValue::Kind kind);

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BINARY_JSON_VALUE_H_
