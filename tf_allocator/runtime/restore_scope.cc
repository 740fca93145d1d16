// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/runtime/restore_scope.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <string>

#include "tensorflow/core/common_runtime/process_state.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/platform/tstring.h"
#include "tensorflow/core/util/saved_tensor_slice_util.h"
#include "tensorflow/core/util/tensor_bundle/tensor_bundle.h"
#include "tf_allocator/runtime/checkpoint_size.h"
#include "tf_allocator/runtime/device_model.h"
#include "tf_allocator/runtime/introspection.h"

namespace tensorflow {
namespace {

// What the named tensors take in a pool; 0 where nothing should be reserved,
// because the index cannot be read or promises too much.
size_t BytesToRestore(const std::string& prefix, const Tensor& tensor_names,
                      const Tensor& shape_and_slices) {
  BundleReader reader(Env::Default(), prefix);
  if (!reader.status().ok()) return 0;
  const auto names = tensor_names.flat<tstring>();
  const auto slices = shape_and_slices.flat<tstring>();
  CheckpointSize size;
  for (int64_t i = 0; i < names.size(); ++i) {
    DataType dtype;
    TensorShape shape;
    if (!reader.LookupDtypeAndShape(names(i), &dtype, &shape).ok()) return 0;
    const std::string spec = i < slices.size() ? std::string(slices(i)) : "";
    if (!spec.empty()) {
      TensorShape full_shape;
      TensorSlice slice;
      if (!checkpoint::ParseShapeAndSlice(spec, &full_shape, &slice, &shape)
               .ok()) {
        return 0;
      }
    }
    size.Add(names(i), spec, dtype, shape);
  }
  return size.BytesInPool(prefix);
}

// Whether the op runs in a graph of a DirectSession, which alone has a device
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
  static std::mutex* mu = new std::mutex;
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
// where they say that it is compatible with GPUs and NICs, and copies it out of
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
                                             const Tensor& shape_and_slices) {
  if (!tf_model_pool::Enabled()) return;
  const std::string path = prefix.scalar<tstring>()();
  const size_t bytes = BytesToRestore(path, tensor_names, shape_and_slices);
  if (bytes > 0) Enter(context, path, bytes);
}

ModelPoolRestoreScope::ModelPoolRestoreScope(OpKernelContext* context) {
  if (context->num_inputs() < 1) return;
  const Tensor& pattern = context->input(0);
  if (pattern.dtype() != DT_STRING || pattern.NumElements() != 1) return;
  Enter(context, pattern.flat<tstring>()(0), /*bytes=*/0);
}

void ModelPoolRestoreScope::Enter(OpKernelContext* context,
                                  const std::string& prefix, size_t bytes) {
  pool_ = ProcessState::singleton()->AcquireModelPool(prefix, bytes);
  if (pool_ == 0) return;
  if (HasDeviceOfItsOwn(context)) {
    NoteDeviceRestore(context->device()->attributes().incarnation(), prefix);
  }
  params_ = context->params();
  saved_ = params_->output_attr_array;
  attributes_.resize(context->num_outputs());
  for (size_t i = 0; i < attributes_.size(); ++i) {
    if (saved_ != nullptr) attributes_[i] = saved_[i];
    attributes_[i].set_model_pool(pool_);
  }
  params_->output_attr_array = attributes_.data();
}

ModelPoolRestoreScope::~ModelPoolRestoreScope() {
  if (pool_ == 0) return;
  params_->output_attr_array = Assignable(saved_, attributes_.size());
  ProcessState::singleton()->ReleaseModelPool(pool_);
}

}  // namespace tensorflow
