// SPDX-License-Identifier: Apache-2.0
//
// The pools of the process: which slot a version gets, what all pools may
// take, and when standby memory is given back.

#ifndef TF_ALLOCATOR_POOL_POOL_REGISTRY_H_
#define TF_ALLOCATOR_POOL_POOL_REGISTRY_H_

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tf_allocator/pool/model_identity.h"
#include "tf_allocator/pool/model_pool.h"
#include "tf_allocator/pool/pool_stats.h"
#include "tf_allocator/pool/settings.h"
#include "tf_allocator/pool/system_memory.h"

namespace tf_model_pool {

// Thread-safe. Pools live as long as the registry.
class PoolRegistry : public MemoryBudget {
 public:
  // A pool id is 8 bits of AllocatorAttributes, and 0 means none.
  static constexpr int kMaxPools = 255;

  struct Options {
    Settings settings;
    SystemMemory* memory = nullptr;  // not owned
    size_t address_space_per_pool = ModelPool::kAddressSpace;
    std::function<int64_t()> now_ns;  // default: the steady clock
    // Between two slices of memory that is given back. A GiB takes a third of
    // a second, and no thread waits for more than one slice.
    std::chrono::nanoseconds release_pause = std::chrono::milliseconds(1);
    // Receives one line where a load gets no pool or less than it needs; a
    // line is not repeated while it is among the recent ones. Called without
    // locks of the registry held. Default: drops it.
    std::function<void(const std::string&)> log;
    // Called for each new pool, before any load uses it, with a lock of the
    // registry held: must not call back. Default: nothing.
    std::function<void(uint8_t id, ModelPool* pool)> on_new_pool;
  };

  explicit PoolRegistry(Options options);
  ~PoolRegistry() override;

  // Starts a load of `identity` and makes room for `bytes` (0 = not known).
  // Returns the id of the pool, or 0 where there is none: every slot of the
  // model is in use, the limit is reached, or the system refuses memory. The
  // load then belongs in the device's own allocator; it is counted and logged.
  // A non-zero id must be given to EndLoad().
  uint8_t BeginLoad(const ModelIdentity& identity, size_t bytes);
  void EndLoad(uint8_t id);

  // nullptr where there is no such pool. One atomic read.
  ModelPool* pool(uint8_t id) const {
    return pools_[id].load(std::memory_order_acquire);
  }

  // The name of the version of pool `id`, "" where there is none.
  std::string NameOf(uint8_t id) const;

  // In order of model directory, then slot.
  std::vector<PoolStats> List() const;
  Totals GetTotals() const;

  // The name of the pool that `address` lies in, "" where it is in none.
  std::string PoolOf(const void* address) const;

  // Gives the memory of every standby slot back, in slices with pauses between
  // them. A load that needs the slot keeps what is left; one that is short of
  // memory goes first, on its own thread. Returns bytes.
  size_t Trim();

  // The same for slots that have been standby for as long as
  // TF_MODEL_POOL_RETAIN keeps them. Called by the registry's own thread.
  size_t TrimExpired();

  // Makes memory usable for the next version of each model that has one version
  // alive, as much as that takes: in its standby slot, else in a new one.
  // Returns bytes. Called by the registry's own thread with
  // TF_MODEL_POOL_PREPARE=on, after each load and unload.
  size_t Prepare();

  // Counts bytes that pool `id` had no room for.
  void CountFallbackBytes(uint8_t id, size_t bytes);

  const Settings& settings() const { return options_.settings; }

  // MemoryBudget. With `make_room`, Charge() trims standby slots, least
  // recently used first, where that makes room, before it refuses.
  bool Charge(size_t bytes, bool make_room) override;
  void Refund(size_t bytes) override;

 private:
  struct Slot {
    uint8_t id;
    char letter;
    ModelIdentity identity;
    std::unique_ptr<ModelPool> pool;
    size_t num_loads;
  };

  // The slot that a load of `identity` goes to, or nullptr with the reason.
  Slot* ChooseSlot(const ModelIdentity& identity, size_t bytes,
                   std::string* reason);
  Slot* NewSlot();
  // The slot to prepare for the next version of the model that `live` holds a
  // version of, and the bytes that it should have; nullptr where it has them,
  // or should not. REQUIRES: mu_.
  Slot* SlotToPrepare(const Slot& live, size_t* bytes);
  bool ModelIsAlive(const std::string& model_dir) const;
  char FreeLetter(const std::string& model_dir) const;
  void CountFallbackLoad(const ModelIdentity& identity, size_t bytes,
                         const std::string& reason);
  void LogOnce(const std::string& line);
  // Why Reserve(bytes) of this pool failed.
  std::string WhyRefused(const ModelPool& pool, size_t bytes) const;
  // The next three REQUIRE trim_mu_.
  bool TrimLeastRecentlyUsed();
  size_t TrimPool(ModelPool* standby, bool paced);
  size_t StandbyBytes() const;
  // Waits between two slices. Returns false as soon as somebody waits for the
  // slot or its memory.
  bool PauseRelease(const ModelPool& pool);
  void WakeBackground(bool changed);
  bool HasBackgroundThread() const;
  // Nanoseconds for which standby memory is kept; -1 = for ever.
  int64_t RetainNs() const;
  void BackgroundLoop();

  const Options options_;
  std::array<std::atomic<ModelPool*>, kMaxPools + 1> pools_{};
  std::atomic<size_t> reserved_{0};

  // Held while memory is given back, so that a load that needs it waits. Taken
  // after growth_mu_ of a pool, before everything else.
  std::mutex trim_mu_;

  // Taken before mu_ of a pool; nobody who holds it waits for growth_mu_.
  mutable std::mutex mu_;
  std::vector<std::unique_ptr<Slot>> slots_;
  size_t fallback_loads_ = 0;
  size_t fallback_bytes_ = 0;
  size_t trimmed_bytes_ = 0;
  size_t prepared_bytes_ = 0;
  std::string last_fallback_reason_;
  size_t loads_into_new_memory_ = 0;
  size_t loads_into_reused_memory_ = 0;
  std::set<std::string> logged_;

  std::mutex background_mu_;
  std::condition_variable background_wakes_;
  bool changed_ = false;        // a slot has come into use or out of it
  int waiting_for_memory_ = 0;  // loads
  bool stopping_ = false;
  std::thread background_thread_;
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_POOL_REGISTRY_H_
