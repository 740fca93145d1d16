// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/device/model_pool_allocator.h"

#include "tensorflow/core/platform/logging.h"

namespace tensorflow {

std::string ModelPoolAllocator::Name() {
  return "model_pool:" + registry_->NameOf(id_);
}

void* ModelPoolAllocator::AllocateRaw(size_t alignment, size_t num_bytes) {
  if (num_bytes == 0) return nullptr;
  if (void* p = pool_->Allocate(alignment, num_bytes)) return p;
  void* p = fallback_()->AllocateRaw(alignment, num_bytes);
  if (p == nullptr) return nullptr;
  {
    std::lock_guard<std::mutex> lock(mu_);
    elsewhere_[p] = num_bytes;
  }
  pool_->AddFallback(num_bytes);
  registry_->CountFallbackBytes(id_, num_bytes);
  return p;
}

void ModelPoolAllocator::DeallocateRaw(void* ptr) {
  if (ptr == nullptr || pool_->Deallocate(ptr)) return;
  size_t bytes = 0;
  {
    std::lock_guard<std::mutex> lock(mu_);
    const auto it = elsewhere_.find(ptr);
    CHECK(it != elsewhere_.end())  // Crash OK
        << "model pool " << Name() << ": freed twice or not its own: " << ptr;
    bytes = it->second;
    elsewhere_.erase(it);
  }
  fallback_()->DeallocateRaw(ptr);
  pool_->RemoveFallback(bytes);
}

size_t ModelPoolAllocator::RequestedSize(const void* ptr) const {
  size_t requested = 0;
  size_t granted = 0;
  if (pool_->Sizes(ptr, &requested, &granted)) return requested;
  std::lock_guard<std::mutex> lock(mu_);
  const auto it = elsewhere_.find(ptr);
  return it == elsewhere_.end() ? 0 : it->second;
}

size_t ModelPoolAllocator::AllocatedSize(const void* ptr) const {
  size_t requested = 0;
  size_t granted = 0;
  if (pool_->Sizes(ptr, &requested, &granted)) return granted;
  return RequestedSize(ptr);
}

absl::optional<AllocatorStats> ModelPoolAllocator::GetStats() {
  tf_model_pool::PoolStats pool;
  pool_->FillStats(&pool);
  AllocatorStats stats;
  stats.num_allocs = pool.num_tensors;
  stats.bytes_in_use = pool.bytes_in_use;
  stats.peak_bytes_in_use = pool.peak_bytes_in_use;
  stats.bytes_reserved = pool.bytes_reserved;
  stats.largest_free_block_bytes = pool.largest_free_block;
  return stats;
}

}  // namespace tensorflow
