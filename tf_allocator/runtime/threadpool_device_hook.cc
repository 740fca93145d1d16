// SPDX-License-Identifier: Apache-2.0
//
// ThreadPoolDevice::GetAllocator on top of released binaries. A source build
// calls the same function from TensorFlow's own definition.

#include "tensorflow/core/common_runtime/threadpool_device.h"
#include "tf_allocator/runtime/device_allocator.h"

namespace tensorflow {

Allocator* ThreadPoolDevice::GetAllocator(AllocatorAttributes attr) {
  return ModelPoolOr(attr, allocator_);
}

}  // namespace tensorflow
