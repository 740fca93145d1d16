// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/device/constant_tensor.h"

#include <algorithm>
#include <string>
#include <utility>

#include "tensorflow/core/common_runtime/process_state.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/framework/types.h"
#include "tf_allocator/device/device_model.h"
#include "tf_allocator/device/process_pools.h"
#include "tf_allocator/device/process_settings.h"
#include "tf_allocator/pool/model_pool.h"

namespace tensorflow {
namespace {

// A page. Axes and shapes are smaller, weights larger
// (docs/results/decisions.md has a count).
constexpr size_t kSmallestInPool = 4096;

}  // namespace

size_t ConstantBytesInPool(const TensorProto& proto) {
  if (!DataTypeCanUseMemcpy(proto.dtype())) return 0;
  PartialTensorShape shape;
  if (!PartialTensorShape::BuildPartialTensorShape(proto.tensor_shape(), &shape)
           .ok() ||
      !shape.IsFullyDefined()) {
    return 0;
  }
  const uint64_t elements = static_cast<uint64_t>(shape.num_elements());
  const uint64_t element = static_cast<uint64_t>(DataTypeSize(proto.dtype()));
  uint64_t bytes;
  if (__builtin_mul_overflow(elements, element, &bytes)) return 0;
  if (bytes < kSmallestInPool ||
      bytes > tf_model_pool::ModelPool::kAddressSpace)
    return 0;
  // Otherwise it cannot be parsed, and need not be as large as its shape says.
  const size_t content = proto.tensor_content().size();
  if (content != 0 && content != bytes) return 0;
  return tf_model_pool::RoundUp(bytes, tf_model_pool::kChunkGranularity);
}

bool MakeConstantInPool(uint64_t incarnation, const TensorProto& proto,
                        Tensor* tensor) {
  if (!tf_model_pool::ProcessSettings().enabled) return false;
  const size_t bytes = ConstantBytesInPool(proto);
  if (bytes == 0) return false;
  size_t of_graph = 0;
  const std::string prefix = TakeDeviceModel(incarnation, &of_graph);
  if (prefix.empty()) return false;
  ProcessState* const process = ProcessState::singleton();
  const uint8_t pool =
      AcquireModelPool({prefix, std::max(bytes, of_graph), incarnation});
  if (pool == 0) {
    // Its other constants would be refused too, one by one.
    ForgetDevice(incarnation);
    return false;
  }
  Tensor made;
  const bool parsed = made.FromProto(process->GetModelPool(pool), proto);
  if (parsed) *tensor = std::move(made);
  process->ReleaseModelPool(pool);
  return parsed;
}

}  // namespace tensorflow
