// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/runtime/checkpoint_size.h"

#include <vector>

#include "tensorflow/core/framework/variant.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/platform/tstring.h"
#include "tf_allocator/pool/model_pool.h"

namespace tensorflow {
namespace {

// Bytes of one element in memory; 0 where the type can't be restored.
uint64_t ElementSize(DataType dtype) {
  if (dtype == DT_STRING) return sizeof(tstring);
  if (dtype == DT_VARIANT) return sizeof(Variant);
  return DataTypeSize(dtype);
}

// The sizes of the data files, an upper bound of what any tensor in them can
// hold; 0 where they can't be read.
uint64_t DataBytes(const std::string& prefix) {
  Env* env = Env::Default();
  std::vector<std::string> files;
  if (!env->GetMatchingPaths(prefix + ".data-*", &files).ok()) return 0;
  uint64_t total = 0;
  for (const std::string& file : files) {
    uint64_t size = 0;
    if (!env->GetFileSize(file, &size).ok()) return 0;
    total += size;
  }
  return total;
}

}  // namespace

void CheckpointSize::Add(const std::string& key, const std::string& slice,
                         DataType dtype, const TensorShape& shape) {
  const uint64_t elements = shape.num_elements();
  const uint64_t size = elements * ElementSize(dtype);
  // A string or a variant takes a byte on disk or more; all else its size.
  if (counted_.emplace(key, slice).second) {
    at_least_on_disk_ += DataTypeCanUseMemcpy(dtype) ? size : elements;
  }
  bytes_ += tf_model_pool::RoundUp(size, tf_model_pool::kChunkGranularity);
}

size_t CheckpointSize::BytesInPool(const std::string& prefix) const {
  return at_least_on_disk_ <= DataBytes(prefix) ? bytes_ : 0;
}

}  // namespace tensorflow
