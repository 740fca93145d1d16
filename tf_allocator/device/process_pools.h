// SPDX-License-Identifier: Apache-2.0
//
// The pools of the process for who knows more of a load than its path, which is
// all that ProcessState::AcquireModelPool asks for.

#ifndef TF_ALLOCATOR_DEVICE_PROCESS_POOLS_H_
#define TF_ALLOCATOR_DEVICE_PROCESS_POOLS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tf_allocator/pool/pool_registry.h"

namespace tensorflow {

struct PoolLoad {
  std::string checkpoint_prefix;
  std::optional<size_t> bytes = {};  // none = not known
  // The incarnation of the device that one session alone has; 0 = none.
  uint64_t device = 0;
  // A hash of each tensor that is restored, as far as they are known.
  std::vector<uint64_t> keys = {};
};

// Begins a load in the pool of the version that is being loaded: by this
// session if there is one, else from this path. What has been restored there
// before starts a pool of its own. Returns 0 if there is none to be had; else
// the load ends with ProcessState::ReleaseModelPool(). Thread-safe.
uint8_t AcquireModelPool(const PoolLoad& load);

// The pools, for questions; nullptr before the first load. Thread-safe.
const tf_model_pool::PoolRegistry* ModelPoolsInUse();

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_DEVICE_PROCESS_POOLS_H_
