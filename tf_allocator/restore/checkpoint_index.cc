// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/restore/checkpoint_index.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/protobuf/tensor_bundle.pb.h"
#include "tensorflow/core/util/tensor_bundle/tensor_bundle.h"
#include "tf_allocator/pool/at_fork.h"
#include "tf_allocator/restore/checkpoint_size.h"

namespace tensorflow {
namespace {

using Clock = std::chrono::steady_clock;

// Far longer than from one op of a restore to the next.
constexpr std::chrono::seconds kKept{5};
// More than loads at a time.
constexpr size_t kMaxCheckpoints = 4;
// For one checkpoint: about 7 MB. Those beyond are looked up in the file.
constexpr size_t kMaxTensors = size_t{1} << 17;
// The second op reads that many on: all that most indexes have, in 2 ms or so.
constexpr size_t kFirstRead = size_t{1} << 12;

// By hash: two tensors that share one would share a size, which does no harm.
uint64_t Hash(std::string_view name) {
  return std::hash<std::string_view>()(name);
}

// The tensor at which the reader stands; false if that is none.
bool Describe(const BundleReader& reader, IndexedTensor* tensor) {
  BundleEntryProto entry;
  if (!entry.ParseFromString(std::string(reader.value())) ||
      !TensorShape::IsValid(entry.shape())) {
    return false;
  }
  tensor->dtype = entry.dtype();
  tensor->elements = TensorShape(entry.shape()).num_elements();
  return true;
}

// Sizes that are known of one checkpoint.
class Checkpoint {
 public:
  bool LookUp(const std::string& prefix, absl::Span<const tstring> names,
              std::vector<IndexedTensor>* tensors, uint64_t* data_bytes) {
    const std::lock_guard<std::mutex> lock(mu_);
    if (!Find(names, tensors) && !Read(prefix, names, tensors)) return false;
    *data_bytes = data_bytes_;
    return true;
  }

 private:
  bool Find(absl::Span<const tstring> names,
            std::vector<IndexedTensor>* tensors) const {
    tensors->clear();
    for (const tstring& name : names) {
      const auto found = tensors_.find(Hash({name.data(), name.size()}));
      if (found == tensors_.end()) return false;
      tensors->push_back(found->second);
    }
    return true;
  }

  bool Read(const std::string& prefix, absl::Span<const tstring> names,
            std::vector<IndexedTensor>* tensors) {
    BundleReader reader(Env::Default(), prefix);
    if (!reader.status().ok()) return false;
    if (complete_) {
      // It has been replaced, or has no such tensor.
      tensors_.clear();
      to_read_ = 0;
      read_to_.clear();
      complete_ = false;
    }
    if (tensors_.empty()) data_bytes_ = DataBytes(prefix);
    tensors->clear();
    for (const tstring& name : names) {
      reader.Seek(name);
      IndexedTensor tensor;
      if (!reader.Valid() || reader.key() != name ||
          !Describe(reader, &tensor)) {
        return false;
      }
      tensors->push_back(tensor);
      Keep(reader, tensor);
    }
    ReadOn(&reader);
    return true;
  }

  void ReadOn(BundleReader* reader) {
    if (to_read_ > 0) {
      reader->Seek(read_to_);
      for (size_t i = 0;
           i < to_read_ && tensors_.size() < kMaxTensors && reader->Valid();
           ++i, reader->Next()) {
        IndexedTensor tensor;
        if (Describe(*reader, &tensor)) Keep(*reader, tensor);
      }
      complete_ = !reader->Valid();
      if (!complete_) read_to_ = std::string(reader->key());
    }
    to_read_ = std::max(kFirstRead, 2 * to_read_);
  }

  void Keep(const BundleReader& reader, const IndexedTensor& tensor) {
    if (tensors_.size() == kMaxTensors) return;
    const auto key = reader.key();
    tensors_[Hash({key.data(), key.size()})] = tensor;
  }

  std::mutex mu_;
  std::unordered_map<uint64_t, IndexedTensor> tensors_;
  uint64_t data_bytes_ = 0;
  size_t to_read_ = 0;     // Entries to read when something is not there.
  std::string read_to_;    // Keys before this one have been read.
  bool complete_ = false;  // So have all.
};

// The checkpoints that were asked for last.
class Recent {
 public:
  std::shared_ptr<Checkpoint> Get(const std::string& prefix) {
    const Clock::time_point now = Clock::now();
    // Freed after the lock.
    std::array<std::shared_ptr<Checkpoint>, kMaxCheckpoints + 1> dropped;
    const std::lock_guard<std::mutex> lock(mu_);
    Slot* found = nullptr;
    Slot* oldest = &slots_[0];
    for (size_t i = 0; i < slots_.size(); ++i) {
      Slot& slot = slots_[i];
      if (now - slot.used > kKept) dropped[i] = std::move(slot.checkpoint);
      if (slot.checkpoint != nullptr && slot.prefix == prefix) found = &slot;
      if (slot.used < oldest->used) oldest = &slot;
    }
    if (found == nullptr) {
      auto made = std::make_shared<Checkpoint>();
      found = oldest;
      dropped.back() = std::move(found->checkpoint);
      found->prefix = prefix;
      found->checkpoint = std::move(made);
    }
    found->used = now;
    return found->checkpoint;
  }

 private:
  struct Slot {
    std::string prefix;
    Clock::time_point used;
    std::shared_ptr<Checkpoint> checkpoint;
  };

  std::mutex mu_;
  std::array<Slot, kMaxCheckpoints> slots_;
};

// Never destroyed: ops may run while the process ends.
alignas(Recent) char storage[sizeof(Recent)];

Recent* TheRecent() {
  static Recent* const recent = [] {
    // The child has none of the threads that may hold a lock here, or read.
    tf_model_pool::AtFork({}, {}, [] { new (storage) Recent; });
    return new (storage) Recent;
  }();
  return recent;
}

}  // namespace

bool LookUpInIndex(const std::string& prefix, absl::Span<const tstring> names,
                   std::vector<IndexedTensor>* tensors, uint64_t* data_bytes) {
  return TheRecent()->Get(prefix)->LookUp(prefix, names, tensors, data_bytes);
}

}  // namespace tensorflow
