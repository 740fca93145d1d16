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
#include "tf_allocator/runtime/constant_scope.h"
#include "tf_allocator/runtime/device_allocator.h"

namespace tensorflow {

Allocator* ThreadPoolDevice::GetAllocator(AllocatorAttributes attr) {
  return ModelPoolOr(attr, allocator_);
}

absl::Status ThreadPoolDevice::MakeTensorFromProto(
    const TensorProto& tensor_proto, const AllocatorAttributes /*alloc_attrs*/,
    Tensor* tensor) {
  const ModelPoolConstantScope scope(attributes().incarnation(), tensor_proto,
                                     allocator_);
  Tensor made;
  // What FromProto accepts, and what is said where it does not, is TensorFlow's.
  if (made.FromProto(scope.allocator(), tensor_proto)) {
    *tensor = std::move(made);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "Cannot parse tensor from proto: ", tensor_proto.DebugString()));
}

}  // namespace tensorflow
