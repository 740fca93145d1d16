// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/binary/c_interface.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tf_allocator/device/load_totals.h"
#include "tf_allocator/pool/pool_stats.h"
#include "tf_allocator/report/introspection.h"

namespace tf_model_pool {
namespace {

std::string Quote(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", c);
      quoted += escaped;
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

class JsonObject {
 public:
  JsonObject& Add(const std::string& name, const std::string& value) {
    return AddRaw(name, Quote(value));
  }
  JsonObject& Add(const std::string& name, size_t value) {
    return AddRaw(name, std::to_string(value));
  }
  JsonObject& Add(const std::string& name, bool value) {
    return AddRaw(name, value ? "true" : "false");
  }
  std::string Text() const { return '{' + members_ + '}'; }

 private:
  JsonObject& AddRaw(const std::string& name, const std::string& value) {
    if (!members_.empty()) members_ += ", ";
    members_ += Quote(name) + ": " + value;
    return *this;
  }

  std::string members_;
};

std::string PoolsText() {
  std::string text;
  for (const PoolStats& pool : ListPools()) {
    if (!text.empty()) text += ", ";
    text += JsonObject()
                .Add("id", static_cast<size_t>(pool.id))
                .Add("name", pool.name)
                .Add("model_dir", pool.model_dir)
                .Add("version", pool.version)
                .Add("slot", std::string(1, pool.slot))
                .Add("state", std::string(PoolStateName(pool.state)))
                .Add("bytes_in_use", pool.bytes_in_use)
                .Add("peak_bytes_in_use", pool.peak_bytes_in_use)
                .Add("bytes_reserved", pool.bytes_reserved)
                .Add("num_tensors", pool.num_tensors)
                .Add("largest_free_block", pool.largest_free_block)
                .Add("fallback_bytes", pool.fallback_bytes)
                .Add("num_regions", pool.num_regions)
                .Add("num_mappings", pool.num_mappings)
                .Add("num_loads", pool.num_loads)
                .Text();
  }
  return '[' + text + ']';
}

std::string TotalsText() {
  const Totals totals = GetTotals();
  return JsonObject()
      .Add("bytes_in_use", totals.bytes_in_use)
      .Add("bytes_reserved", totals.bytes_reserved)
      .Add("limit_bytes", totals.limit_bytes)
      .Add("num_pools", totals.num_pools)
      .Add("num_mappings", totals.num_mappings)
      .Add("fallback_loads", totals.fallback_loads)
      .Add("fallback_bytes", totals.fallback_bytes)
      .Add("trimmed_bytes", totals.trimmed_bytes)
      .Add("prepared_bytes", totals.prepared_bytes)
      .Add("last_fallback_reason", totals.last_fallback_reason)
      .Text();
}

std::string LoadTotalsText() {
  const LoadTotals totals = GetLoadTotals();
  return JsonObject()
      .Add("direct_restores", static_cast<size_t>(totals.direct_restores))
      .Add("graph_restores", static_cast<size_t>(totals.graph_restores))
      .Add("cold_versions", static_cast<size_t>(totals.cold_versions))
      .Add("last_graph_restore_reason", totals.last_graph_restore_reason)
      .Text();
}

std::string StatusText() {
  const Status status = GetStatus();
  return JsonObject()
      .Add("active", status.active)
      .Add("reason", status.reason)
      .Text();
}

std::string SettingsText() {
  JsonObject settings;
  for (const auto& [name, value] : EffectiveSettings())
    settings.Add(name, value);
  return settings.Text();
}

// A copy of what `make` returns that C can free, nullptr where memory ran out.
template <typename Make>
char* TextOf(Make make) noexcept {
  try {
    const std::string text = make();
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
  return tf_model_pool::TextOf(tf_model_pool::PoolsText);
}

char* TfModelPool_Totals(void) {
  return tf_model_pool::TextOf(tf_model_pool::TotalsText);
}

char* TfModelPool_LoadTotals(void) {
  return tf_model_pool::TextOf(tf_model_pool::LoadTotalsText);
}

char* TfModelPool_Status(void) {
  return tf_model_pool::TextOf(tf_model_pool::StatusText);
}

char* TfModelPool_Settings(void) {
  return tf_model_pool::TextOf(tf_model_pool::SettingsText);
}

char* TfModelPool_PoolOf(const void* address) {
  return tf_model_pool::TextOf([address] {
    return tf_model_pool::Quote(tf_model_pool::PoolOf(address));
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
