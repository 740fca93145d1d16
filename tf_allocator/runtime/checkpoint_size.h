// SPDX-License-Identifier: Apache-2.0
//
// What tensors of a checkpoint take in a pool.

#ifndef TF_ALLOCATOR_RUNTIME_CHECKPOINT_SIZE_H_
#define TF_ALLOCATOR_RUNTIME_CHECKPOINT_SIZE_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/framework/types.h"

namespace tensorflow {

// Sums up tensors as the checkpoint's index describes them.
class CheckpointSize {
 public:
  // `slice` is "" for a whole tensor. A tensor may be added more than once: it
  // then takes its bytes in the pool as often, and on disk once.
  void Add(const std::string& key, const std::string& slice, DataType dtype,
           const TensorShape& shape);

  // Bytes in a pool; 0 where the index promises more than the data files at
  // `prefix` can hold (reserving that would take memory for tensors that
  // cannot come) or where they cannot be read.
  size_t BytesInPool(const std::string& prefix) const;

 private:
  size_t bytes_ = 0;
  uint64_t at_least_on_disk_ = 0;
  std::set<std::pair<std::string, std::string>> counted_;
};

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_RUNTIME_CHECKPOINT_SIZE_H_
