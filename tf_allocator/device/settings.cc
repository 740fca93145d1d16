// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/device/settings.h"

#include <limits>
#include <utility>

namespace tf_model_pool {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
// Slots are named A to Z.
constexpr int64_t kMaxSlots = 26;
// 64 TiB: past any machine, and far from overflowing a count of bytes.
constexpr int64_t kMaxLimitMb = int64_t{1} << 26;
// 1 TiB a second: more than memory gives.
constexpr int64_t kMaxReadMbPerS = int64_t{1} << 20;
constexpr int64_t kMaxPrepareRuns = 256;
// A year: a longer wait is a typing error.
constexpr int64_t kMaxRetainSeconds = 366LL * 24 * 3600;

constexpr std::pair<const char*, Settings::LoadPriority> kLoadPriorities[] = {
    {"auto", Settings::LoadPriority::kAuto},
    {"normal", Settings::LoadPriority::kNormal},
};

std::string Malformed(const char* name, const std::string& value,
                      const std::string& allowed) {
  return std::string(name) + "=\"" + value + "\" is not valid: allowed is " +
         allowed;
}

// Digits only: no sign, no space, no unit.
bool ParseWholeNumber(const std::string& text, int64_t low, int64_t high,
                      int64_t* out) {
  if (text.empty() || text.size() > 18) return false;
  int64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
    value = value * 10 + (c - '0');
  }
  if (value < low || value > high) return false;
  *out = value;
  return true;
}

}  // namespace

std::string Settings::Parse(const Lookup& lookup, Settings* out) {
  Settings parsed;
  const auto on_off = [&](const char* name, bool* field) -> std::string {
    const char* value = lookup(name);
    if (value == nullptr) return "";
    const std::string text(value);
    if (text != "on" && text != "off") {
      return Malformed(name, text, "\"on\" or \"off\"");
    }
    *field = text == "on";
    return "";
  };

  std::string error = on_off("TF_MODEL_POOL", &parsed.enabled);
  if (error.empty()) {
    error = on_off("TF_MODEL_POOL_HUGE_PAGES", &parsed.huge_pages);
  }
  if (error.empty()) error = on_off("TF_MODEL_POOL_PREFAULT", &parsed.prefault);
  if (error.empty()) error = on_off("TF_MODEL_POOL_PREPARE", &parsed.prepare);
  if (error.empty()) {
    error = on_off("TF_MODEL_POOL_DIRECT_RESTORE", &parsed.direct_restore);
  }
  if (error.empty()) {
    error = on_off("TF_MODEL_POOL_DROP_CACHE", &parsed.drop_cache);
  }
  if (!error.empty()) return error;

  int64_t number = 0;
  if (const char* value = lookup("TF_MODEL_POOL_SLOTS")) {
    if (!ParseWholeNumber(value, 1, kMaxSlots, &number)) {
      return Malformed("TF_MODEL_POOL_SLOTS", value,
                       "a whole number from 1 to " + std::to_string(kMaxSlots));
    }
    parsed.slots = static_cast<int>(number);
  }
  if (const char* value = lookup("TF_MODEL_POOL_LIMIT_MB")) {
    if (!ParseWholeNumber(value, 1, kMaxLimitMb, &number)) {
      return Malformed("TF_MODEL_POOL_LIMIT_MB", value,
                       "a whole number of MiB from 1 to " +
                           std::to_string(kMaxLimitMb) +
                           " (leave it unset for no limit)");
    }
    parsed.limit_bytes = static_cast<size_t>(number) * kMiB;
  }
  if (const char* value = lookup("TF_MODEL_POOL_READ_MB_PER_S")) {
    if (!ParseWholeNumber(value, 1, kMaxReadMbPerS, &number)) {
      return Malformed("TF_MODEL_POOL_READ_MB_PER_S", value,
                       "a whole number of MiB a second from 1 to " +
                           std::to_string(kMaxReadMbPerS) +
                           " (leave it unset for no limit)");
    }
    parsed.read_bytes_per_second = static_cast<uint64_t>(number) * kMiB;
  }
  if (const char* value = lookup("TF_MODEL_POOL_PREPARE_RUNS")) {
    if (!ParseWholeNumber(value, 0, kMaxPrepareRuns, &number)) {
      return Malformed(
          "TF_MODEL_POOL_PREPARE_RUNS", value,
          "a whole number from 0 to " + std::to_string(kMaxPrepareRuns));
    }
    parsed.prepare_runs = static_cast<int>(number);
  }
  if (const char* value = lookup("TF_MODEL_POOL_RETAIN")) {
    const std::string text(value);
    if (text == "standby") {
      parsed.retain = Retain::kStandby;
    } else if (text == "release") {
      parsed.retain = Retain::kRelease;
    } else if (ParseWholeNumber(text, 0, kMaxRetainSeconds, &number)) {
      parsed.retain = Retain::kSeconds;
      parsed.retain_seconds = number;
    } else {
      return Malformed("TF_MODEL_POOL_RETAIN", text,
                       "\"standby\", \"release\" or a whole number of seconds "
                       "from 0 to " +
                           std::to_string(kMaxRetainSeconds));
    }
  }
  if (parsed.prepare && parsed.retain != Retain::kStandby) {
    return Malformed("TF_MODEL_POOL_PREPARE", "on",
                     "\"off\" where TF_MODEL_POOL_RETAIN is not \"standby\": "
                     "what is prepared would be given back");
  }
  if (const char* value = lookup("TF_MODEL_POOL_LOAD_PRIORITY")) {
    const std::string text(value);
    bool known = false;
    for (const auto& [name, priority] : kLoadPriorities) {
      if (text != name) continue;
      parsed.load_priority = priority;
      known = true;
    }
    if (!known) {
      return Malformed("TF_MODEL_POOL_LOAD_PRIORITY", text,
                       "\"auto\" or \"normal\"");
    }
  }
  *out = parsed;
  return "";
}

std::map<std::string, std::string> Settings::ToMap() const {
  const auto on_off = [](bool v) { return std::string(v ? "on" : "off"); };
  std::string retain_text = "standby";
  if (retain == Retain::kRelease) retain_text = "release";
  if (retain == Retain::kSeconds) retain_text = std::to_string(retain_seconds);
  std::string priority_text;
  for (const auto& [name, priority] : kLoadPriorities) {
    if (load_priority == priority) priority_text = name;
  }
  return {
      {"TF_MODEL_POOL", on_off(enabled)},
      {"TF_MODEL_POOL_SLOTS", std::to_string(slots)},
      {"TF_MODEL_POOL_LIMIT_MB",
       limit_bytes == 0 ? "" : std::to_string(limit_bytes / kMiB)},
      {"TF_MODEL_POOL_RETAIN", retain_text},
      {"TF_MODEL_POOL_HUGE_PAGES", on_off(huge_pages)},
      {"TF_MODEL_POOL_PREFAULT", on_off(prefault)},
      {"TF_MODEL_POOL_PREPARE", on_off(prepare)},
      {"TF_MODEL_POOL_LOAD_PRIORITY", priority_text},
      {"TF_MODEL_POOL_DIRECT_RESTORE", on_off(direct_restore)},
      {"TF_MODEL_POOL_PREPARE_RUNS", std::to_string(prepare_runs)},
      {"TF_MODEL_POOL_READ_MB_PER_S",
       read_bytes_per_second == 0
           ? ""
           : std::to_string(read_bytes_per_second / kMiB)},
      {"TF_MODEL_POOL_DROP_CACHE", on_off(drop_cache)},
  };
}

}  // namespace tf_model_pool
