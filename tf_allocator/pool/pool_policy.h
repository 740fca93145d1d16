// SPDX-License-Identifier: Apache-2.0

#ifndef TF_ALLOCATOR_POOL_POOL_POLICY_H_
#define TF_ALLOCATOR_POOL_POOL_POLICY_H_

#include <cstddef>
#include <cstdint>

namespace tf_model_pool {

// Limits of the pools together, and the memory that outlasts its version.
struct PoolPolicy {
  // For memory that no version lies in any more.
  enum class Retain {
    kStandby,  // kept, faulted in, for the next version
    kRelease,  // given back at once, by a background thread
    kSeconds,  // kept for retain_seconds, then given back
  };

  int slots = 4;           // versions of one model that may be alive
  size_t limit_bytes = 0;  // 0 = no limit
  Retain retain = Retain::kStandby;
  int64_t retain_seconds = 0;
  bool prepare = false;  // make memory usable ahead of need; with kStandby
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_POOL_POLICY_H_
