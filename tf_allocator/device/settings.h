// SPDX-License-Identifier: Apache-2.0
//
// The TF_MODEL_POOL* environment variables, parsed and checked.

#ifndef TF_ALLOCATOR_DEVICE_SETTINGS_H_
#define TF_ALLOCATOR_DEVICE_SETTINGS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "tf_allocator/pool/pool_policy.h"

namespace tf_model_pool {

struct Settings : public PoolPolicy {
  // How a load treats requests.
  enum class LoadPriority {
    kAuto,    // gives way to them while models serve
    kNormal,  // as TensorFlow does
  };

  bool enabled = true;     // TF_MODEL_POOL=on|off
  bool huge_pages = true;  // TF_MODEL_POOL_HUGE_PAGES=on|off
  bool prefault = true;    // TF_MODEL_POOL_PREFAULT=on|off
  // TF_MODEL_POOL_LOAD_PRIORITY=auto|normal
  LoadPriority load_priority = LoadPriority::kAuto;
  bool direct_restore = true;  // TF_MODEL_POOL_DIRECT_RESTORE=on|off
  int prepare_runs = 32;       // TF_MODEL_POOL_PREPARE_RUNS=0..256, 0 = none
  // TF_MODEL_POOL_READ_MB_PER_S, 0 = no limit
  uint64_t read_bytes_per_second = 0;
  bool drop_cache = false;  // TF_MODEL_POOL_DROP_CACHE=on|off

  // Returns the value of a variable, or nullptr where it is not set.
  using Lookup = std::function<const char*(const char* name)>;

  // Reads every variable. Returns "" and fills `*out`, or returns one sentence
  // that names the first malformed variable, its value and what is allowed,
  // and leaves `*out` alone.
  static std::string Parse(const Lookup& lookup, Settings* out);

  // The settings in force as the text that would set them; "" where no text
  // does, only leaving the variable unset.
  std::map<std::string, std::string> ToMap() const;
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_DEVICE_SETTINGS_H_
