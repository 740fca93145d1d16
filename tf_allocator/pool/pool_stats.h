// SPDX-License-Identifier: Apache-2.0
//
// A model pool's report about itself. All sizes are bytes.

#ifndef TF_ALLOCATOR_POOL_POOL_STATS_H_
#define TF_ALLOCATOR_POOL_POOL_STATS_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace tf_model_pool {

enum class PoolState {
  kLoading,  // a restore into the pool is running
  kLive,     // no restore is running, some tensor lies in the pool
  kStandby,  // nothing lies in the pool; its memory waits for the next version
};

// "loading", "live" or "standby".
const char* PoolStateName(PoolState state);

// One slot of one model, and the version that it holds or held last.
struct PoolStats {
  uint8_t id = 0;         // the value of AllocatorAttributes::model_pool()
  std::string name;       // "<model>/<version>", e.g. "ctr/3"
  std::string model_dir;  // the directory that tells models of one name apart
  std::string version;    // "" if the checkpoint has none
  char slot = 'A';
  PoolState state = PoolState::kStandby;

  size_t bytes_in_use = 0;        // granted to tensors, rounded to 64
  size_t peak_bytes_in_use = 0;   // since this version began to load
  size_t bytes_reserved = 0;      // mapped read-write, whether in use or not
  size_t num_tensors = 0;         // buffers in the pool now
  size_t largest_free_block = 0;  // the largest buffer that fits without growth
  // Bytes of this version that lie in the device's own allocator because the
  // pool could not grow.
  size_t fallback_bytes = 0;

  size_t num_regions = 0;   // address ranges held
  size_t num_mappings = 0;  // times the pool made memory usable, ever
  // Restores, and constants of graphs, that were given this slot, ever.
  size_t num_loads = 0;
  // Nanoseconds that it took to make memory usable, page faults of prefaulting
  // included, ever.
  uint64_t prefault_ns = 0;
};

// The process as a whole.
struct Totals {
  size_t bytes_in_use = 0;
  size_t bytes_reserved = 0;
  size_t limit_bytes = 0;  // 0 = no limit
  size_t num_pools = 0;
  size_t num_mappings = 0;
  // Restores that got no pool, and the bytes that went to the device's own
  // allocator for that (as announced) or for want of room in a pool; both count
  // from start.
  size_t fallback_loads = 0;
  size_t fallback_bytes = 0;
  size_t trimmed_bytes = 0;   // given back from standby slots, since start
  size_t prepared_bytes = 0;  // made usable ahead of need, since start
  std::string last_fallback_reason;
  // Versions that took an idle slot, by whether it had memory (of an earlier
  // one, or prepared), since start. Further restores of a version that is there
  // do not count.
  size_t loads_into_new_memory = 0;
  size_t loads_into_reused_memory = 0;
  uint64_t prefault_ns = 0;  // sum over the pools
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_POOL_STATS_H_
