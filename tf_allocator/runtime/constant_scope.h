// SPDX-License-Identifier: Apache-2.0
//
// While a device makes a constant of a graph, the allocator of the pool of the
// model version that the device belongs to.

#ifndef TF_ALLOCATOR_RUNTIME_CONSTANT_SCOPE_H_
#define TF_ALLOCATOR_RUNTIME_CONSTANT_SCOPE_H_

#include <cstddef>
#include <cstdint>

#include "tensorflow/core/framework/allocator.h"
#include "tensorflow/core/framework/tensor.pb.h"

namespace tensorflow {

// What a constant takes in a pool; 0 where it belongs in the device's
// allocator: it is smaller than a page, or what it holds lies on the heap
// whatever the allocator (strings), or its shape is none.
size_t ConstantBytesInPool(const TensorProto& proto);

// Holds the pool, or nothing, until it is destroyed; a tensor that lies in the
// pool by then keeps it. Reports no errors: a proto that cannot be parsed is
// the device's own to report.
class ModelPoolConstantScope {
 public:
  // For Device::MakeTensorFromProto: `own` is the device's allocator.
  ModelPoolConstantScope(uint64_t incarnation, const TensorProto& proto,
                         Allocator* own);
  ~ModelPoolConstantScope();

  ModelPoolConstantScope(const ModelPoolConstantScope&) = delete;
  ModelPoolConstantScope& operator=(const ModelPoolConstantScope&) = delete;

  Allocator* allocator() const { return allocator_; }

 private:
  Allocator* allocator_;
  uint8_t pool_ = 0;
};

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_RUNTIME_CONSTANT_SCOPE_H_
