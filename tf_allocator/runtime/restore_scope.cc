// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/runtime/restore_scope.h"

#include <set>
#include <string>
#include <utility>

#include "tensorflow/core/common_runtime/process_state.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/framework/variant.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/platform/tstring.h"
#include "tensorflow/core/util/saved_tensor_slice_util.h"
#include "tensorflow/core/util/tensor_bundle/tensor_bundle.h"
#include "tf_allocator/pool/model_pool.h"
#include "tf_allocator/runtime/introspection.h"

namespace tensorflow {
namespace {

// Bytes of one element in memory; 0 where the type can't be restored.
uint64_t ElementSize(DataType dtype) {
  if (dtype == DT_STRING) return sizeof(tstring);
  if (dtype == DT_VARIANT) return sizeof(Variant);
  return DataTypeSize(dtype);
}

// The sizes of the data files, an upper bound of what any tensor in them can
// hold; 0 where they can't be read.
uint64_t DataBytes(Env* env, const std::string& prefix) {
  std::vector<std::string> files;
  if (!env->GetMatchingPaths(prefix + ".data-*", &files).ok()) return 0;
  uint64_t total = 0;
  for (const std::string& file : files) {
    uint64_t size = 0;
    if (!env->GetFileSize(file, &size).ok()) return 0;
    total += size;
  }
  return total;
}

// What the named tensors take in a pool; 0 where nothing should be reserved:
// an index that cannot be read, or that promises more than its data files can
// hold (reserving that would take memory for tensors that cannot come).
size_t BytesToRestore(const std::string& prefix, const Tensor& tensor_names,
                      const Tensor& shape_and_slices) {
  Env* env = Env::Default();
  BundleReader reader(env, prefix);
  if (!reader.status().ok()) return 0;
  const auto names = tensor_names.flat<tstring>();
  const auto slices = shape_and_slices.flat<tstring>();
  size_t bytes = 0;
  uint64_t at_least_on_disk = 0;
  std::set<std::pair<std::string, std::string>> counted;
  for (int64_t i = 0; i < names.size(); ++i) {
    DataType dtype;
    TensorShape shape;
    if (!reader.LookupDtypeAndShape(names(i), &dtype, &shape).ok()) return 0;
    if (i < slices.size() && !slices(i).empty()) {
      TensorShape full_shape;
      TensorSlice slice;
      if (!checkpoint::ParseShapeAndSlice(slices(i), &full_shape, &slice,
                                          &shape)
               .ok()) {
        return 0;
      }
    }
    const uint64_t elements = shape.num_elements();
    const uint64_t size = elements * ElementSize(dtype);
    // A string or a variant takes a byte on disk or more; all else its size. An
    // op may name a tensor twice.
    const std::string slice = i < slices.size() ? std::string(slices(i)) : "";
    if (counted.emplace(std::string(names(i)), slice).second) {
      at_least_on_disk += DataTypeCanUseMemcpy(dtype) ? size : elements;
    }
    bytes += tf_model_pool::RoundUp(size, tf_model_pool::kChunkGranularity);
  }
  return at_least_on_disk <= DataBytes(env, prefix) ? bytes : 0;
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
  params_->output_attr_array = saved_;
  ProcessState::singleton()->ReleaseModelPool(pool_);
}

}  // namespace tensorflow
