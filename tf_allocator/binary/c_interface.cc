// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/binary/c_interface.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "tf_allocator/binary/json_value.h"
#include "tf_allocator/device/load_totals.h"
#include "tf_allocator/pool/pool_stats.h"
#include "tf_allocator/report/fields.h"
#include "tf_allocator/report/introspection.h"

namespace tf_model_pool {
namespace {

template <typename Field>
JsonValue ToJson(const Field& field) {
  return field;
}
JsonValue ToJson(uint8_t id) { return int{id}; }
JsonValue ToJson(char letter) { return std::string(1, letter); }
JsonValue ToJson(PoolState state) { return PoolStateName(state); }

template <typename Record>
JsonValue ObjectOf(const Record& record) {
  JsonValue object = JsonValue::Object();
  VisitFields<Record>([&](const char* name, auto field) {
    object.Set(name, ToJson(record.*field));
  });
  return object;
}

JsonValue PoolsOfProcess() {
  JsonValue pools = JsonValue::Array();
  for (const PoolStats& pool : ListPools()) pools.Append(ObjectOf(pool));
  return pools;
}

JsonValue TotalsOfProcess() { return ObjectOf(GetTotals()); }

JsonValue LoadTotalsOfProcess() { return ObjectOf(GetLoadTotals()); }

JsonValue StatusOfProcess() {
  const Status status = GetStatus();
  return JsonValue::Object({{"active", status.active()},
                            {"code", StatusCodeName(status.code)},
                            {"reason", status.reason}});
}

JsonValue SettingsOfProcess() {
  JsonValue settings = JsonValue::Object();
  for (const auto& [name, value] : EffectiveSettings()) {
    settings.Set(name, value);
  }
  return settings;
}

// The text of what `make` returns, for C to free; nullptr if memory ran out.
template <typename Make>
char* TextOf(Make make) noexcept {
  try {
    const std::string text = make().ToText();
    char* copy = static_cast<char*>(std::malloc(text.size() + 1));
    if (copy != nullptr) std::memcpy(copy, text.c_str(), text.size() + 1);
    return copy;
  } catch (...) {
    return nullptr;
  }
}

}  // namespace
}  // namespace tf_model_pool

extern "C" {

int TfModelPool_InterfaceVersion(void) {
  return TF_MODEL_POOL_C_INTERFACE_VERSION;
}

char* TfModelPool_ListPools(void) {
  return tf_model_pool::TextOf(tf_model_pool::PoolsOfProcess);
}

char* TfModelPool_Totals(void) {
  return tf_model_pool::TextOf(tf_model_pool::TotalsOfProcess);
}

char* TfModelPool_LoadTotals(void) {
  return tf_model_pool::TextOf(tf_model_pool::LoadTotalsOfProcess);
}

char* TfModelPool_Status(void) {
  return tf_model_pool::TextOf(tf_model_pool::StatusOfProcess);
}

char* TfModelPool_Settings(void) {
  return tf_model_pool::TextOf(tf_model_pool::SettingsOfProcess);
}

char* TfModelPool_PoolOf(const void* address) {
  return tf_model_pool::TextOf([address] {
    return tf_model_pool::JsonValue(tf_model_pool::PoolOf(address));
  });
}

void TfModelPool_FreeText(char* text) { std::free(text); }

uint64_t TfModelPool_Trim(void) {
  try {
    return tf_model_pool::Trim();
  } catch (...) {
    return 0;
  }
}

}  // extern "C"
