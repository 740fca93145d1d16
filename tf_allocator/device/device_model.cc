// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/device/device_model.h"

#include <iterator>
#include <list>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "tf_allocator/pool/at_fork.h"
#include "tf_allocator/pool/model_identity.h"

namespace tensorflow {
namespace {

using tf_model_pool::IdentityFromCheckpointPrefix;

struct DeviceModel {
  uint64_t incarnation;
  std::string prefix;  // "" = shared by versions
  size_t constant_bytes;
  bool loaded;  // named by SetDeviceModel
};

class DeviceModels {
 public:
  static DeviceModels& OfProcess() {
    static DeviceModels* models = new DeviceModels;
    return *models;
  }

  void Set(DeviceModel model) {
    const std::lock_guard<std::mutex> lock(mu_);
    const auto it = by_incarnation_.find(model.incarnation);
    if (it == by_incarnation_.end()) {
      Add(std::move(model));
      return;
    }
    DeviceModel& known = *it->second;
    if (known.loaded && !model.loaded) return;
    const bool outranks = model.loaded && !known.loaded;
    if (!outranks && !SameVersion(known.prefix, model.prefix)) {
      model.prefix.clear();
    }
    known = std::move(model);
  }

  void Forget(uint64_t incarnation) {
    const std::lock_guard<std::mutex> lock(mu_);
    const auto it = by_incarnation_.find(incarnation);
    if (it == by_incarnation_.end()) return;
    models_.erase(it->second);
    by_incarnation_.erase(it);
  }

  std::string Take(uint64_t incarnation, size_t* constant_bytes) {
    const std::lock_guard<std::mutex> lock(mu_);
    *constant_bytes = 0;
    const auto it = by_incarnation_.find(incarnation);
    if (it == by_incarnation_.end()) return "";
    std::swap(*constant_bytes, it->second->constant_bytes);
    return it->second->prefix;
  }

 private:
  static bool SameVersion(const std::string& a, const std::string& b) {
    return !a.empty() && !b.empty() &&
           IdentityFromCheckpointPrefix(a) == IdentityFromCheckpointPrefix(b);
  }

  void Add(DeviceModel model) {
    if (models_.size() >= kMaxDeviceModels) {
      by_incarnation_.erase(models_.front().incarnation);
      models_.pop_front();
    }
    models_.push_back(std::move(model));
    by_incarnation_.emplace(models_.back().incarnation,
                            std::prev(models_.end()));
  }

  tf_model_pool::ForkSafeMutex mu_;
  std::list<DeviceModel> models_;  // oldest first
  std::unordered_map<uint64_t, std::list<DeviceModel>::iterator>
      by_incarnation_;
};

}  // namespace

void SetDeviceModel(uint64_t incarnation, const std::string& checkpoint_prefix,
                    size_t constant_bytes) {
  DeviceModels::OfProcess().Set(
      {incarnation, checkpoint_prefix, constant_bytes, /*loaded=*/true});
}

void NoteDeviceRestore(uint64_t incarnation,
                       const std::string& checkpoint_prefix) {
  DeviceModels::OfProcess().Set({incarnation, checkpoint_prefix,
                                 /*constant_bytes=*/0, /*loaded=*/false});
}

void ForgetDevice(uint64_t incarnation) {
  DeviceModels::OfProcess().Forget(incarnation);
}

std::string TakeDeviceModel(uint64_t incarnation, size_t* constant_bytes) {
  return DeviceModels::OfProcess().Take(incarnation, constant_bytes);
}

}  // namespace tensorflow
