// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/restore/direct_restore.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "tensorflow/core/common_runtime/process_state.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/lib/core/refcount.h"
#include "tensorflow/core/platform/mutex.h"
#include "tf_allocator/device/process_pools.h"
#include "tf_allocator/restore/checkpoint_size.h"
#include "tf_allocator/restore/reader_threads.h"
#include "tf_allocator/restore/tensor_reader.h"
#include "tf_allocator/sched/load_thread.h"

namespace tensorflow {
namespace {

// A second reader costs an index and a thread; what it reads should be worth
// more than that.
constexpr uint64_t kBytesPerReader = uint64_t{64} << 20;
// TensorFlow's own restore reads with this many.
constexpr uint64_t kMaxReaders = 8;

// Holds a pool between the begin and the end of a load. A load of no bytes has
// none.
class AcquiredPool {
 public:
  explicit AcquiredPool(const PoolLoad& load)
      : id_(load.bytes == size_t{0} ? 0 : AcquireModelPool(load)) {}
  ~AcquiredPool() { ProcessState::singleton()->ReleaseModelPool(id_); }
  AcquiredPool(const AcquiredPool&) = delete;
  AcquiredPool& operator=(const AcquiredPool&) = delete;

  Allocator* allocator(DeviceBase* device) const {
    AllocatorAttributes attributes;
    attributes.set_model_pool(id_);
    return device->GetAllocator(attributes);
  }

 private:
  const uint8_t id_;
};

struct Restored {
  const RestorePlan::Variable* variable;
  TensorShape shape;
  Tensor tensor;
};

// Fills the tensors with as many readers as their sizes are worth: `own`, on
// this thread, and others beside it.
absl::Status ReadTensors(const std::string& prefix, uint64_t bytes,
                         TensorReader* own, std::vector<Restored>* restored) {
  std::atomic<size_t> next{0};
  std::mutex mu;
  absl::Status first_error;
  const auto read = [&](TensorReader* reader) {
    // Whichever way a reader ends, there is nothing left for the others.
    const absl::Cleanup stop = [&] { next.store(restored->size()); };
    for (size_t i; (i = next.fetch_add(1)) < restored->size();) {
      Restored& each = (*restored)[i];
      const absl::Status status =
          reader->status().ok() ? reader->Read(each.variable->key, &each.tensor)
                                : reader->status();
      if (status.ok()) continue;
      const std::lock_guard<std::mutex> lock(mu);
      if (first_error.ok()) first_error = status;
      return;
    }
  };
  const uint64_t readers = std::max<uint64_t>(
      1, std::min({kMaxReaders,
                   static_cast<uint64_t>(tf_model_pool::AllowedThreads()),
                   bytes / kBytesPerReader}));
  tf_model_pool::ReadTogether(
      readers - 1, [&] { read(own); },
      [&] {
        const tf_model_pool::GiveWay give_way;
        TensorReader reader(prefix);
        read(&reader);
      });
  return first_error;
}

}  // namespace

std::string DirectRestore(const RestorePlan& plan, const std::string& prefix,
                          DeviceBase* device, ResourceMgr* resources) {
  if (plan.variables.empty()) return "";
  const auto container_of = [&](const RestorePlan::Variable& v) {
    return v.container.empty() ? resources->default_container() : v.container;
  };
  std::vector<Restored> restored;
  restored.reserve(plan.variables.size());
  TensorReader reader(prefix);
  if (!reader.status().ok()) return reader.status().ToString();
  CheckpointSize size;
  for (const RestorePlan::Variable& variable : plan.variables) {
    Var* existing = nullptr;
    if (resources->Lookup<Var>(container_of(variable), variable.name, &existing)
            .ok()) {
      const core::ScopedUnref unref(existing);
      return "variable " + variable.name + " is there already";
    }
    DataType dtype;
    TensorShape shape;
    const absl::Status status = reader.LookUp(variable.key, &dtype, &shape);
    if (!status.ok()) return status.ToString();
    if (dtype != variable.dtype) {
      return variable.key + " has another type in the checkpoint";
    }
    size.Add(variable.key, /*slice=*/"", dtype, shape.num_elements());
    restored.push_back({&variable, shape, Tensor()});
  }
  const std::optional<size_t> bytes = size.BytesInPool(DataBytes(prefix));
  if (!bytes) return "the data files are shorter than the index says";

  {
    const AcquiredPool pool(
        {prefix, bytes, device->attributes().incarnation(), size.Keys()});
    Allocator* const allocator = pool.allocator(device);
    for (Restored& each : restored) {
      each.tensor = Tensor(allocator, each.variable->dtype, each.shape);
      if (!each.tensor.IsInitialized()) return "out of memory";
    }
    const absl::Status status = ReadTensors(prefix, *bytes, &reader, &restored);
    if (!status.ok()) return status.ToString();
  }

  for (Restored& each : restored) {
    Var* variable = nullptr;
    const absl::Status status = resources->LookupOrCreate<Var>(
        container_of(*each.variable), each.variable->name, &variable,
        [&each](Var** created) {
          *created = new Var(each.variable->dtype);
          return absl::OkStatus();
        });
    // Names were free a moment ago, and a session that is being loaded runs
    // nothing else.
    if (!status.ok()) return status.ToString();
    const core::ScopedUnref unref(variable);
    const mutex_lock lock(*variable->mu());
    *variable->tensor() = std::move(each.tensor);
    variable->is_initialized = true;
  }
  return "";
}

}  // namespace tensorflow
