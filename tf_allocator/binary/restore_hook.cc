// SPDX-License-Identifier: Apache-2.0
//
// TensorFlow's two restore functions, wrapped: the pool is set for the time of
// the call, and TensorFlow's own function does the work. Used on top of
// released binaries; a source build opens the scope in those functions.

#include "tf_allocator/binary/restore_hook.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/kernels/save_restore_tensor.h"
#include "tf_allocator/restore/restore_scope.h"

namespace tensorflow {
namespace {

using RestoreV2 = decltype(&RestoreTensorsV2);
using RestoreV1 = decltype(&RestoreTensor);

const WrappedFunction& WrappedV2() {
  static const WrappedFunction function = {
      "RestoreTensorsV2", kCcLibrary,
      reinterpret_cast<const void*>(&RestoreTensorsV2),
      TF_MODEL_POOL_RESTORE_V2_OFFSET, TF_MODEL_POOL_RESTORE_V2_CODE};
  return function;
}

const WrappedFunction& WrappedV1() {
  static const WrappedFunction function = {
      "RestoreTensor", kCcLibrary,
      reinterpret_cast<const void*>(&RestoreTensor),
      TF_MODEL_POOL_RESTORE_V1_OFFSET, TF_MODEL_POOL_RESTORE_V1_CODE};
  return function;
}

}  // namespace

std::array<const WrappedFunction*, 2> WrappedRestoreFunctions() {
  return {&WrappedV2(), &WrappedV1()};
}

absl::Status RestoreTensorsV2(OpKernelContext* context, const Tensor& prefix,
                              const Tensor& tensor_names,
                              const Tensor& shape_and_slices,
                              absl::Span<const DataType> dtypes) {
  static const Original<RestoreV2>* original =
      new Original<RestoreV2>(WrappedV2());
  if (original->function == nullptr)
    return absl::InternalError(original->error);
  ModelPoolRestoreScope scope(context, prefix, tensor_names, shape_and_slices);
  return original->function(context, prefix, tensor_names, shape_and_slices,
                            dtypes);
}

void RestoreTensor(OpKernelContext* context,
                   checkpoint::TensorSliceReader::OpenTableFunction open_func,
                   int preferred_shard, bool restore_slice, int restore_index) {
  static const Original<RestoreV1>* original =
      new Original<RestoreV1>(WrappedV1());
  OP_REQUIRES(context, original->function != nullptr,
              absl::InternalError(original->error));
  ModelPoolRestoreScope scope(context);
  original->function(context, std::move(open_func), preferred_shard,
                     restore_slice, restore_index);
}

}  // namespace tensorflow
