// SPDX-License-Identifier: Apache-2.0
//
// Counts how restores of this process were done. Thread-safe.

#ifndef TF_ALLOCATOR_DEVICE_LOAD_TOTALS_H_
#define TF_ALLOCATOR_DEVICE_LOAD_TOTALS_H_

#include <cstdint>
#include <string>

namespace tf_model_pool {

// A restore op whose variables were set without running it.
void CountDirectRestore();
// A restore or init op that TensorFlow ran, and why.
void CountGraphRestore(const std::string& why);

// A request of a kind whose executors no load, and no earlier request of that
// version, had made.
void CountColdVersion();

struct LoadTotals {
  uint64_t direct_restores = 0;
  uint64_t graph_restores = 0;
  uint64_t cold_versions = 0;
  std::string last_graph_restore_reason;
};
LoadTotals GetLoadTotals();

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_DEVICE_LOAD_TOTALS_H_
