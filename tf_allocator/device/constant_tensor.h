// SPDX-License-Identifier: Apache-2.0
//
// Constants of a graph in the pool of the model version that it belongs to.

#ifndef TF_ALLOCATOR_DEVICE_CONSTANT_TENSOR_H_
#define TF_ALLOCATOR_DEVICE_CONSTANT_TENSOR_H_

#include <cstddef>
#include <cstdint>

#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor.pb.h"

namespace tensorflow {

// The bytes that a constant takes in a pool; 0 if it belongs in the device's
// allocator: it is smaller than a page, or what it holds lies on the heap
// whatever the allocator (strings), or its shape is none.
size_t ConstantBytesInPool(const TensorProto& proto);

// Makes the tensor that `proto` describes in the pool of the version that the
// device belongs to. Returns false, and leaves `*tensor` as it is, if it
// belongs in no pool, or cannot be parsed: the device's own function is then to
// make it, or to report what is wrong. For ThreadPoolDevice's
// MakeTensorFromProto. Thread-safe.
bool MakeConstantInPool(uint64_t incarnation, const TensorProto& proto,
                        Tensor* tensor);

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_DEVICE_CONSTANT_TENSOR_H_
