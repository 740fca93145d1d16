// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/restore/checkpoint_size.h"

#include <functional>
#include <limits>
#include <vector>

#include "tensorflow/core/framework/variant.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/platform/tstring.h"
#include "tf_allocator/pool/model_pool.h"

namespace tensorflow {
namespace {

// Bytes of one element in memory; 0 if the type can't be restored.
uint64_t ElementSize(DataType dtype) {
  if (dtype == DT_STRING) return sizeof(tstring);
  if (dtype == DT_VARIANT) return sizeof(Variant);
  return DataTypeSize(dtype);
}

// Stands for a sum that is too large for its type.
constexpr uint64_t kTooMuch = std::numeric_limits<uint64_t>::max();

void AddTo(uint64_t* sum, uint64_t count, uint64_t size) {
  uint64_t product;
  if (__builtin_mul_overflow(count, size, &product) ||
      __builtin_add_overflow(*sum, product, sum)) {
    *sum = kTooMuch;
  }
}

uint64_t Key(std::string_view name, std::string_view slice) {
  const std::hash<std::string_view> hash;
  // The golden ratio's multiplier: name and slice do not cancel out.
  return hash(name) * 0x9e3779b97f4a7c15 + hash(slice);
}

}  // namespace

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

void CheckpointSize::Add(std::string_view name, std::string_view slice,
                         DataType dtype, uint64_t elements) {
  const uint64_t size = ElementSize(dtype);
  // A string or a variant takes a byte on disk or more; all else its size.
  if (keys_.insert(Key(name, slice)).second) {
    AddTo(&at_least_on_disk_, elements, DataTypeCanUseMemcpy(dtype) ? size : 1);
  }
  uint64_t bytes = 0;
  AddTo(&bytes, elements, size);
  if (bytes <= kTooMuch - tf_model_pool::kChunkGranularity) {
    bytes = tf_model_pool::RoundUp(bytes, tf_model_pool::kChunkGranularity);
  }
  AddTo(&bytes_, bytes, 1);
}

std::optional<size_t> CheckpointSize::BytesInPool(uint64_t data_bytes) const {
  if (at_least_on_disk_ > data_bytes || bytes_ == kTooMuch) return std::nullopt;
  return bytes_;
}

}  // namespace tensorflow
