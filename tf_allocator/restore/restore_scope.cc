// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/restore/restore_scope.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "tensorflow/core/common_runtime/process_state.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/platform/tstring.h"
#include "tensorflow/core/util/saved_tensor_slice_util.h"
#include "tf_allocator/device/device_model.h"
#include "tf_allocator/device/process_pools.h"
#include "tf_allocator/device/process_settings.h"
#include "tf_allocator/pool/at_fork.h"
#include "tf_allocator/restore/checkpoint_index.h"
#include "tf_allocator/restore/checkpoint_size.h"

namespace tensorflow {
namespace {

// Sums up what the op's tensors take. Returns false if the checkpoint's index
// cannot be read or lacks one; `data_bytes` is what its data files hold.
bool SizeOf(const std::string& prefix, const Tensor& tensor_names,
            const Tensor& shape_and_slices, CheckpointSize* size,
            uint64_t* data_bytes) {
  const auto names = tensor_names.flat<tstring>();
  const auto slices = shape_and_slices.flat<tstring>();
  std::vector<IndexedTensor> tensors;
  if (!LookUpInIndex(prefix, {names.data(), static_cast<size_t>(names.size())},
                     &tensors, data_bytes)) {
    return false;
  }
  for (int64_t i = 0; i < names.size(); ++i) {
    const std::string spec = i < slices.size() ? std::string(slices(i)) : "";
    if (!spec.empty()) {
      TensorShape full_shape, shape;
      TensorSlice slice;
      if (!checkpoint::ParseShapeAndSlice(spec, &full_shape, &slice, &shape)
               .ok()) {
        return false;
      }
      tensors[i].elements = shape.num_elements();
    }
    size->Add(names(i), spec, tensors[i].dtype, tensors[i].elements);
  }
  return true;
}

// True if the op runs in a graph of a DirectSession, which alone has a device
// of its own: the executors of other runtimes are given no handle, or one that
// names their kind.
bool HasDeviceOfItsOwn(OpKernelContext* context) {
  static constexpr char kDirect[] = "direct";
  return context->session_handle().compare(0, sizeof(kDirect) - 1, kDirect) ==
         0;
}

// `count` attributes, all compatible with GPUs and NICs. Never freed: whoever
// runs the op may read them at any time after it.
const AllocatorAttributes* Compatible(size_t count) {
  static auto* mu = new tf_model_pool::ForkSafeMutex;
  static auto* arrays = new std::deque<std::vector<AllocatorAttributes>>;
  AllocatorAttributes compatible;
  compatible.set_gpu_compatible(true);
  compatible.set_nic_compatible(true);
  const std::lock_guard<std::mutex> lock(*mu);
  if (arrays->empty() || arrays->back().size() < count) {
    // Doubled, so that all of them together stay small.
    const size_t last = arrays->empty() ? 0 : arrays->back().size();
    arrays->emplace_back(std::max(count, 2 * last), compatible);
  }
  return arrays->back().data();
}

// The attributes that the executor passes on with the op's outputs. Assign,
// unless grappler relaxed it, takes a buffer over for a reference variable only
// if they say that it is compatible with GPUs and NICs, and copies it out of
// the pool otherwise. On CPU they say nothing about the memory.
const AllocatorAttributes* Assignable(const AllocatorAttributes* attributes,
                                      size_t count) {
  const bool own = attributes != nullptr &&
                   std::any_of(attributes, attributes + count,
                               [](const AllocatorAttributes& a) {
                                 return a.value != 0 || a.scope_id != 0;
                               });
  return own || count == 0 ? attributes : Compatible(count);
}

}  // namespace

ModelPoolRestoreScope::ModelPoolRestoreScope(OpKernelContext* context,
                                             const Tensor& prefix,
                                             const Tensor& tensor_names,
                                             const Tensor& shape_and_slices)
    : ModelPoolRestoreScope() {
  if (!tf_model_pool::ProcessSettings().enabled) return;
  const std::string path = prefix.scalar<tstring>()();
  CheckpointSize size;
  uint64_t data_bytes = 0;
  if (!SizeOf(path, tensor_names, shape_and_slices, &size, &data_bytes)) return;
  const std::optional<size_t> bytes = size.BytesInPool(data_bytes);
  if (bytes && *bytes > 0) Enter(context, path, bytes, size.Keys());
}

ModelPoolRestoreScope::ModelPoolRestoreScope(OpKernelContext* context)
    : ModelPoolRestoreScope() {
  if (context->num_inputs() < 1) return;
  const Tensor& pattern = context->input(0);
  if (pattern.dtype() != DT_STRING || pattern.NumElements() != 1) return;
  Enter(context, pattern.flat<tstring>()(0), /*bytes=*/std::nullopt,
        /*keys=*/{});
}

void ModelPoolRestoreScope::Enter(OpKernelContext* context,
                                  const std::string& prefix,
                                  std::optional<size_t> bytes,
                                  std::vector<uint64_t> keys) {
  const uint64_t device = HasDeviceOfItsOwn(context)
                              ? context->device()->attributes().incarnation()
                              : 0;
  pool_ = AcquireModelPool({prefix, bytes, device, std::move(keys)});
  if (pool_ == 0) return;
  if (device != 0) NoteDeviceRestore(device, prefix);
  const AllocatorAttributes* const before =
      context->params()->output_attr_array;
  attributes_.resize(context->num_outputs());
  for (size_t i = 0; i < attributes_.size(); ++i) {
    if (before != nullptr) attributes_[i] = before[i];
    attributes_[i].set_model_pool(pool_);
  }
  after_ = Assignable(before, attributes_.size());
  params_ = context->params();
  params_->output_attr_array = attributes_.data();
}

ModelPoolRestoreScope::~ModelPoolRestoreScope() {
  if (params_ != nullptr) params_->output_attr_array = after_;
  if (pool_ != 0) ProcessState::singleton()->ReleaseModelPool(pool_);
}

}  // namespace tensorflow
