// SPDX-License-Identifier: Apache-2.0
//
// TensorFlow's two restore functions, wrapped: the pool is set for the time of
// the call, and TensorFlow's own function does the work. Used on top of
// released binaries; a source build opens the scope in those functions.

#include <utility>

#include "absl/status/status.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/kernels/save_restore_tensor.h"
#include "tf_allocator/binary/hook_status.h"
#include "tf_allocator/restore/restore_scope.h"

namespace tensorflow {
namespace {

using RestoreV2 = decltype(&RestoreTensorsV2);
using RestoreV1 = decltype(&RestoreTensor);

}  // namespace

absl::Status RestoreTensorsV2(OpKernelContext* context, const Tensor& prefix,
                              const Tensor& tensor_names,
                              const Tensor& shape_and_slices,
                              absl::Span<const DataType> dtypes) {
  static const auto* original =
      new Original<RestoreV2>(WrappedFunction::RESTORE_V2);
  if (original->function == nullptr) {
    return absl::InternalError(original->error);
  }
  ModelPoolRestoreScope scope(context, prefix, tensor_names, shape_and_slices);
  return original->function(context, prefix, tensor_names, shape_and_slices,
                            dtypes);
}

void RestoreTensor(OpKernelContext* context,
                   checkpoint::TensorSliceReader::OpenTableFunction open_func,
                   int preferred_shard, bool restore_slice, int restore_index) {
  static const auto* original =
      new Original<RestoreV1>(WrappedFunction::RESTORE_V1);
  OP_REQUIRES(context, original->function != nullptr,
              absl::InternalError(original->error));
  ModelPoolRestoreScope scope(context);
  original->function(context, std::move(open_func), preferred_shard,
                     restore_slice, restore_index);
}

}  // namespace tensorflow
