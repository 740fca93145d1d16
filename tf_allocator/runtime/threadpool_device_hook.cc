// SPDX-License-Identifier: Apache-2.0
//
// The one place on the request path: the allocator that an attribute names.

#include "tensorflow/core/common_runtime/process_state.h"
#include "tensorflow/core/common_runtime/threadpool_device.h"
#include "tensorflow/core/platform/macros.h"

namespace tensorflow {

Allocator* ThreadPoolDevice::GetAllocator(AllocatorAttributes attr) {
  const uint8_t id = attr.model_pool();
  if (TF_PREDICT_FALSE(id != 0)) {
    Allocator* pool = ProcessState::singleton()->GetModelPool(id);
    if (pool != nullptr) return pool;
  }
  return allocator_;
}

}  // namespace tensorflow
