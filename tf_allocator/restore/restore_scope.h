// SPDX-License-Identifier: Apache-2.0
//
// While a restore op runs, its outputs are allocated in the pool of the
// checkpoint's model version.

#ifndef TF_ALLOCATOR_RESTORE_RESTORE_SCOPE_H_
#define TF_ALLOCATOR_RESTORE_RESTORE_SCOPE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace tensorflow {

// Sets the pool's id in the output allocator attributes of the op, where every
// thread that allocates an output sees it, and takes it out again. The outputs
// are then marked as what Assign takes over for reference variables, which
// therefore lie in the pool too. Notes whose device it is (device_model.h).
// Does nothing if there is no pool to be had. Reports no errors: a
// checkpoint that cannot be read is the restore's own to report.
//
// REQUIRES: one scope at a time for a context.
class ModelPoolRestoreScope {
 public:
  // For RestoreTensorsV2, with its arguments. Reserves what the named
  // tensors take, as the checkpoint's index has it.
  ModelPoolRestoreScope(OpKernelContext* context, const Tensor& prefix,
                        const Tensor& tensor_names,
                        const Tensor& shape_and_slices);
  // For RestoreTensor (V1 format): the checkpoint is input 0, and sizes are
  // not known before the tensors are read.
  explicit ModelPoolRestoreScope(OpKernelContext* context);
  ~ModelPoolRestoreScope();

  ModelPoolRestoreScope(const ModelPoolRestoreScope&) = delete;
  ModelPoolRestoreScope& operator=(const ModelPoolRestoreScope&) = delete;

 private:
  // The other constructors stand on it, so that what they throw ends the scope.
  ModelPoolRestoreScope() = default;
  void Enter(OpKernelContext* context, const std::string& prefix,
             std::optional<size_t> bytes, std::vector<uint64_t> keys);

  uint8_t pool_ = 0;
  OpKernelContext::Params* params_ = nullptr;
  const AllocatorAttributes* after_ = nullptr;
  std::vector<AllocatorAttributes> attributes_;
};

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_RESTORE_RESTORE_SCOPE_H_
