// SPDX-License-Identifier: Apache-2.0
//
// The members that the header patch adds to ProcessState. The pools are a
// function's static, not a data member: the class keeps the size that released
// binaries know.

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/core/common_runtime/process_state.h"
#include "tensorflow/core/platform/logging.h"
#include "tensorflow/core/platform/mutex.h"
#include "tensorflow/core/platform/numa.h"
#include "tf_allocator/device/metrics.h"
#include "tf_allocator/device/model_pool_allocator.h"
#include "tf_allocator/device/process_pools.h"
#include "tf_allocator/device/process_settings.h"
#include "tf_allocator/pool/at_fork.h"
#include "tf_allocator/pool/memory_headroom.h"
#include "tf_allocator/pool/model_identity.h"
#include "tf_allocator/pool/pool_registry.h"
#include "tf_allocator/pool/system_memory.h"

namespace tensorflow {
namespace {

using tf_model_pool::PoolRegistry;
using tf_model_pool::Settings;

}  // namespace

// The registry with the TensorFlow allocators of its pools. Never destroyed:
// tensors can outlive static destruction.
class ModelPoolsOfProcess {
 public:
  using Visitors = std::vector<SubAllocator::Visitor>;

  ModelPoolsOfProcess(const Settings& settings, Visitors on_alloc,
                      Visitors on_free)
      : mapped_({settings.huge_pages, settings.prefault}) {
    const auto visit = [](Visitors visitors) {
      return [visitors = std::move(visitors)](void* address, size_t bytes) {
        for (const auto& v : visitors) v(address, port::kNUMANoAffinity, bytes);
      };
    };
    tf_model_pool::SystemMemory* memory = &mapped_;
    if (!on_alloc.empty() || !on_free.empty()) {
      visited_ = std::make_unique<tf_model_pool::VisitedMemory>(
          &mapped_, visit(std::move(on_alloc)), visit(std::move(on_free)));
      memory = visited_.get();
    }
    PoolRegistry::Options options;
    options.policy = settings;
    options.memory = memory;
    options.headroom = tf_model_pool::MemoryHeadroom::OfProcess;
    options.log = [](const std::string& line) { LOG(WARNING) << line; };
    options.log_info = [](const std::string& line) { LOG(INFO) << line; };
    options.on_new_pool = [this](uint8_t id, tf_model_pool::ModelPool* pool) {
      allocators_[id].store(
          new ModelPoolAllocator(
              id, pool, registry_.get(),
              [] {
                return ProcessState::singleton()->GetCPUAllocator(
                    port::kNUMANoAffinity);
              }),
          std::memory_order_release);
    };
    registry_ = std::make_unique<PoolRegistry>(std::move(options));
  }

  PoolRegistry* registry() { return registry_.get(); }
  Allocator* allocator(uint8_t id) const {
    return allocators_[id].load(std::memory_order_acquire);
  }

  void BeforeFork() {
    registry_->BeforeFork();
    for (const auto& each : allocators_) {
      if (ModelPoolAllocator* allocator = each.load()) allocator->BeforeFork();
    }
  }
  void AfterFork(bool in_child) {
    for (const auto& each : allocators_) {
      if (ModelPoolAllocator* allocator = each.load()) allocator->AfterFork();
    }
    registry_->AfterFork(in_child);
  }

 private:
  tf_model_pool::MappedMemory mapped_;
  std::unique_ptr<tf_model_pool::VisitedMemory> visited_;
  std::array<std::atomic<ModelPoolAllocator*>, PoolRegistry::kMaxPools + 1>
      allocators_{};
  std::unique_ptr<PoolRegistry> registry_;
};

namespace {

// Null until the first load.
std::atomic<ModelPoolsOfProcess*> process_pools{nullptr};

// Names what ProcessState shows to derived classes alone.
struct ProcessStateMembers : public ProcessState {
  using Visitors = ModelPoolsOfProcess::Visitors;
  static std::pair<Visitors, Visitors> VisitorsOf(ProcessState* state) {
    mutex_lock lock(state->*&ProcessStateMembers::mu_);
    return {state->*&ProcessStateMembers::cpu_alloc_visitors_,
            state->*&ProcessStateMembers::cpu_free_visitors_};
  }
};

ModelPoolsOfProcess* MakePools(const Settings& settings) {
  auto [on_alloc, on_free] =
      ProcessStateMembers::VisitorsOf(ProcessState::singleton());
  auto* made = new ModelPoolsOfProcess(settings, std::move(on_alloc),
                                       std::move(on_free));
  process_pools.store(made, std::memory_order_release);
  RegisterModelPoolMetrics(made->registry());
  tf_model_pool::AtFork([made] { made->BeforeFork(); },
                        [made] { made->AfterFork(/*in_child=*/false); },
                        [made] { made->AfterFork(/*in_child=*/true); });
  return made;
}

}  // namespace

uint8_t AcquireModelPool(const PoolLoad& load) {
  const Settings& settings = tf_model_pool::ProcessSettings();
  if (!settings.enabled) return 0;
  static ModelPoolsOfProcess* const pools = MakePools(settings);
  return pools->registry()->BeginLoad(
      {tf_model_pool::IdentityFromCheckpointPrefix(load.checkpoint_prefix),
       load.bytes, load.device, load.keys});
}

const PoolRegistry* ModelPoolsInUse() {
  auto* pools = process_pools.load(std::memory_order_acquire);
  return pools == nullptr ? nullptr : pools->registry();
}

uint8_t ProcessState::AcquireModelPool(const std::string& checkpoint_prefix,
                                       size_t bytes) {
  PoolLoad load = {checkpoint_prefix};
  if (bytes > 0) load.bytes = bytes;
  return tensorflow::AcquireModelPool(load);
}

void ProcessState::ReleaseModelPool(uint8_t id) {
  if (auto* pools = process_pools.load(std::memory_order_acquire)) {
    pools->registry()->EndLoad(id);
  }
}

Allocator* ProcessState::GetModelPool(uint8_t id) {
  auto* pools = process_pools.load(std::memory_order_acquire);
  return pools == nullptr ? nullptr : pools->allocator(id);
}

std::vector<tf_model_pool::PoolStats> ProcessState::ListModelPools() {
  auto* pools = process_pools.load(std::memory_order_acquire);
  if (pools == nullptr) return {};
  return pools->registry()->List();
}

size_t ProcessState::TrimModelPools() {
  auto* pools = process_pools.load(std::memory_order_acquire);
  return pools == nullptr ? 0 : pools->registry()->Trim();
}

std::string ProcessState::ModelPoolOf(const void* address) {
  auto* pools = process_pools.load(std::memory_order_acquire);
  return pools == nullptr ? "" : pools->registry()->PoolOf(address);
}

}  // namespace tensorflow
