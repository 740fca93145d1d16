// SPDX-License-Identifier: Apache-2.0
//
// Questions about the pools of this process: for the Python binding and for
// programs that do not want TensorFlow's headers.

#ifndef TF_ALLOCATOR_REPORT_INTROSPECTION_H_
#define TF_ALLOCATOR_REPORT_INTROSPECTION_H_

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "tf_allocator/pool/pool_stats.h"

namespace tf_model_pool {

enum class StatusCode {
  kActive,            // restored tensors go to pools in this process
  kOff,               // TF_MODEL_POOL=off
  kMalformedSetting,  // the reason names it
  kHooksNotBound,     // TensorFlow does not call our functions, or not all
};

// "active", "off", "malformed_setting", "hooks_not_bound".
const char* StatusCodeName(StatusCode code);

struct Status {
  StatusCode code = StatusCode::kActive;
  std::string reason;  // for people; "" if active

  bool active() const { return code == StatusCode::kActive; }
};

// All are thread-safe.

// Every pool, in order of model directory and slot.
std::vector<PoolStats> ListPools();
Totals GetTotals();

// The name of the pool that `address` lies in; "" if it is in none.
std::string PoolOf(const void* address);

// Gives the memory of standby slots back. Returns bytes.
size_t Trim();

// Pools are active if the settings allow it and TensorFlow calls our functions.
Status GetStatus();

// The settings in force, by variable. If one is malformed pools are off, and
// GetStatus() has the reason.
std::map<std::string, std::string> EffectiveSettings();

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_REPORT_INTROSPECTION_H_
