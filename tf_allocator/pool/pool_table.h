// SPDX-License-Identifier: Apache-2.0

#ifndef TF_ALLOCATOR_POOL_POOL_TABLE_H_
#define TF_ALLOCATOR_POOL_POOL_TABLE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "tf_allocator/pool/model_pool.h"

namespace tf_model_pool {

// The pools by their id: 1, 2, 3 ... in the order in which they are added.
// Owns none; they live as long as the table. Reading is thread-safe and takes
// no lock. Adding needs one.
class PoolTable {
 public:
  // An id is 8 bits of AllocatorAttributes, and 0 means none.
  static constexpr int kMaxPools = 255;

  void Set(uint8_t id, ModelPool* pool) {
    pools_[id].store(pool, std::memory_order_release);
  }

  // nullptr if there is no such pool. One atomic read.
  ModelPool* Get(uint8_t id) const {
    return pools_[id].load(std::memory_order_acquire);
  }

  std::vector<ModelPool*> All() const {
    std::vector<ModelPool*> pools;
    for (int id = 1; id <= kMaxPools; ++id) {
      ModelPool* pool = Get(static_cast<uint8_t>(id));
      if (pool == nullptr) break;
      pools.push_back(pool);
    }
    return pools;
  }

 private:
  std::array<std::atomic<ModelPool*>, kMaxPools + 1> pools_{};
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_POOL_TABLE_H_
