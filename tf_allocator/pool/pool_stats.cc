// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/pool_stats.h"

namespace tf_model_pool {

const char* PoolStateName(PoolState state) {
  switch (state) {
    case PoolState::kLoading:
      return "loading";
    case PoolState::kLive:
      return "live";
    case PoolState::kStandby:
      return "standby";
  }
  return "unknown";
}

}  // namespace tf_model_pool
