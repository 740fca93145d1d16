// SPDX-License-Identifier: Apache-2.0
//
// What the pools of this process look like from outside: for the Python
// binding and for programs that do not want TensorFlow's headers.

#ifndef TF_ALLOCATOR_REPORT_INTROSPECTION_H_
#define TF_ALLOCATOR_REPORT_INTROSPECTION_H_

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "tf_allocator/pool/pool_stats.h"

namespace tf_model_pool {

struct Status {
  bool active = false;
  std::string reason;  // why not; "" where active
};

// All are thread-safe.

// Every pool, in order of model directory and slot.
std::vector<PoolStats> ListPools();
Totals GetTotals();

// The name of the pool that `address` lies in; "" where it is in none.
std::string PoolOf(const void* address);

// Gives the memory of standby slots back. Returns bytes.
size_t Trim();

// Whether restored tensors go to pools in this process: the settings allow it
// and TensorFlow calls our functions.
Status GetStatus();

// The settings in force, by variable. Where one is malformed pools are off and
// GetStatus() has the reason.
std::map<std::string, std::string> EffectiveSettings();

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_REPORT_INTROSPECTION_H_
