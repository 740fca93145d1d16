// SPDX-License-Identifier: Apache-2.0
//
// Members of ThreadPoolDevice on top of released binaries. A source build
// calls the same functions from TensorFlow's own definitions.

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/common_runtime/threadpool_device.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/types.h"
#include "tf_allocator/device/constant_tensor.h"
#include "tf_allocator/device/device_allocator.h"

namespace tensorflow {

Allocator* ThreadPoolDevice::GetAllocator(AllocatorAttributes attr) {
  return ModelPoolOr(attr, allocator_);
}

absl::Status ThreadPoolDevice::MakeTensorFromProto(
    const TensorProto& tensor_proto, const AllocatorAttributes /*alloc_attrs*/,
    Tensor* tensor) {
  if (MakeConstantInPool(attributes().incarnation(), tensor_proto, tensor)) {
    return absl::OkStatus();
  }
  Tensor made;
  if (made.FromProto(allocator_, tensor_proto)) {
    *tensor = std::move(made);
    return absl::OkStatus();
  }
  // In TensorFlow's words.
  return absl::InvalidArgumentError(absl::StrCat(
      "Cannot parse tensor from proto: ", tensor_proto.DebugString()));
}

}  // namespace tensorflow
