// SPDX-License-Identifier: Apache-2.0
//
// The TF_MODEL_POOL* environment variables. settings.cc has a row for each:
// name, field, what is allowed, and the help text of docs/reference.md.

#ifndef TF_ALLOCATOR_DEVICE_SETTINGS_H_
#define TF_ALLOCATOR_DEVICE_SETTINGS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tf_allocator/pool/pool_policy.h"

namespace tf_model_pool {

struct Settings : public PoolPolicy {
  // A load's regard for requests.
  enum class LoadPriority {
    kAuto,    // gives way to them while models serve
    kNormal,  // as TensorFlow does
  };

  bool enabled = true;
  bool huge_pages = true;
  bool prefault = true;
  LoadPriority load_priority = LoadPriority::kAuto;
  bool direct_restore = true;
  int prepare_runs = 32;               // 0 = none
  uint64_t read_bytes_per_second = 0;  // 0 = no limit
  bool drop_cache = false;

  // Returns the value of a variable, or nullptr if it is not set.
  using Lookup = std::function<const char*(const char* name)>;

  // Reads every variable. Returns "" and fills `*out`, or returns one sentence
  // that names the first malformed variable, its value and what is allowed,
  // and leaves `*out` alone.
  static std::string Parse(const Lookup& lookup, Settings* out);

  // The settings in force as the text that would set them; "" if no text does,
  // only leaving the variable unset.
  std::map<std::string, std::string> ToMap() const;

  // A variable for people, in Markdown.
  struct Description {
    std::string name;
    std::string allowed;
    std::string help;
  };
  // In the order in which the variables are read.
  static std::vector<Description> Describe();
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_DEVICE_SETTINGS_H_
