// SPDX-License-Identifier: Apache-2.0
//
// The bytes that tensors of a checkpoint take in a pool.

#ifndef TF_ALLOCATOR_RESTORE_CHECKPOINT_SIZE_H_
#define TF_ALLOCATOR_RESTORE_CHECKPOINT_SIZE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "tensorflow/core/framework/types.h"

namespace tensorflow {

// The sizes of the data files at `prefix`, an upper bound of what any tensor in
// them can hold; 0 if they can't be read.
uint64_t DataBytes(const std::string& prefix);

// Sums up tensors as the checkpoint's index describes them.
class CheckpointSize {
 public:
  // `slice` is "" for a whole tensor. A tensor may be added more than once: it
  // then takes its bytes in the pool as often, and on disk once.
  void Add(std::string_view name, std::string_view slice, DataType dtype,
           uint64_t elements);

  // Bytes in a pool, 0 if all tensors are empty. None if the index promises
  // more than data files of `data_bytes` can hold: reserving that would take
  // memory for tensors that cannot come.
  std::optional<size_t> BytesInPool(uint64_t data_bytes) const;

  // A hash of the name and slice of each tensor, once each, in no order.
  std::vector<uint64_t> Keys() const { return {keys_.begin(), keys_.end()}; }

 private:
  uint64_t bytes_ = 0;
  uint64_t at_least_on_disk_ = 0;
  std::unordered_set<uint64_t> keys_;
};

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_RESTORE_CHECKPOINT_SIZE_H_
