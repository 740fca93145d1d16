// SPDX-License-Identifier: Apache-2.0
//
// A ModelPool as a TensorFlow allocator.

#ifndef TF_ALLOCATOR_DEVICE_MODEL_POOL_ALLOCATOR_H_
#define TF_ALLOCATOR_DEVICE_MODEL_POOL_ALLOCATOR_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <unordered_map>

#include "tensorflow/core/framework/allocator.h"
#include "tf_allocator/pool/model_pool.h"
#include "tf_allocator/pool/pool_registry.h"

namespace tensorflow {

// Thread-safe. Lives as long as the process, because a tensor keeps a pointer
// to its allocator. If the pool is full, a buffer comes from `fallback`.
class ModelPoolAllocator : public Allocator {
 public:
  // Owns nothing. `fallback` is asked for when it is first needed: creating
  // TensorFlow's CPU allocator earlier would forbid its visitors.
  ModelPoolAllocator(uint8_t id, tf_model_pool::ModelPool* pool,
                     tf_model_pool::PoolRegistry* registry,
                     std::function<Allocator*()> fallback)
      : id_(id),
        pool_(pool),
        registry_(registry),
        fallback_(std::move(fallback)) {}

  // "model_pool:<model>/<version>", as step statistics show it.
  std::string Name() override;

  void* AllocateRaw(size_t alignment, size_t num_bytes) override;
  void DeallocateRaw(void* ptr) override;

  bool TracksAllocationSizes() const override { return true; }
  size_t RequestedSize(const void* ptr) const override;
  size_t AllocatedSize(const void* ptr) const override;
  absl::optional<AllocatorStats> GetStats() override;
  AllocatorMemoryType GetMemoryType() const override {
    return AllocatorMemoryType::kHostPageable;
  }

  // Around fork(2), on the thread that forks.
  void BeforeFork() { mu_.lock(); }
  void AfterFork() { mu_.unlock(); }

 private:
  const uint8_t id_;
  tf_model_pool::ModelPool* const pool_;
  tf_model_pool::PoolRegistry* const registry_;
  const std::function<Allocator*()> fallback_;

  mutable std::mutex mu_;
  // Sizes asked for of buffers that came from the fallback.
  std::unordered_map<const void*, size_t> elsewhere_;
};

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_DEVICE_MODEL_POOL_ALLOCATOR_H_
