// SPDX-License-Identifier: Apache-2.0
//
// The one place on the request path: the allocator that an attribute names.

#ifndef TF_ALLOCATOR_DEVICE_DEVICE_ALLOCATOR_H_
#define TF_ALLOCATOR_DEVICE_DEVICE_ALLOCATOR_H_

#include <cstdint>

#include "tensorflow/core/common_runtime/process_state.h"
#include "tensorflow/core/framework/allocator.h"
#include "tensorflow/core/platform/macros.h"

namespace tensorflow {

// The allocator of the pool that `attr` names; `own`, the device's, if it
// names none. Thread-safe. Header only, and therefore without a library to
// link: ThreadPoolDevice::GetAllocator is a call of it in a source build and on
// top of released binaries alike.
inline Allocator* ModelPoolOr(AllocatorAttributes attr, Allocator* own) {
  const uint8_t id = attr.model_pool();
  if (TF_PREDICT_FALSE(id != 0)) {
    Allocator* pool = ProcessState::singleton()->GetModelPool(id);
    if (pool != nullptr) return pool;
  }
  return own;
}

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_DEVICE_DEVICE_ALLOCATOR_H_
