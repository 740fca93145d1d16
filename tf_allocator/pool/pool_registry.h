// SPDX-License-Identifier: Apache-2.0
//
// The memory of the process's model versions: one stock of ranges, what all of
// them may take, and what is kept on standby.
//
// High-level model
// - A range (ModelPool) holds one version at a time. When nothing is left in it
//   it is on standby, and goes to the next load that it fits, of whichever
//   model. Model, version and slot letter are labels; a range on standby keeps
//   those of the version that left it.
// - On standby is as much as the largest version alive needs. The keeper, a
//   thread of the registry's own, gives the rest back, and lets the system take
//   what is kept if memory runs short.

#ifndef TF_ALLOCATOR_POOL_POOL_REGISTRY_H_
#define TF_ALLOCATOR_POOL_POOL_REGISTRY_H_

#include <pthread.h>

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
#include <unordered_set>
#include <vector>

#include "tf_allocator/pool/memory_headroom.h"
#include "tf_allocator/pool/model_identity.h"
#include "tf_allocator/pool/model_pool.h"
#include "tf_allocator/pool/pool_policy.h"
#include "tf_allocator/pool/pool_stats.h"
#include "tf_allocator/pool/system_memory.h"

namespace tf_model_pool {

// Thread-safe. Pools live as long as the registry.
class PoolRegistry : public MemoryBudget {
 public:
  // A pool id is 8 bits of AllocatorAttributes, and 0 means none.
  static constexpr int kMaxPools = 255;

  struct Options {
    PoolPolicy policy;
    SystemMemory* memory = nullptr;  // not owned
    size_t address_space_per_pool = ModelPool::kAddressSpace;
    std::function<int64_t()> now_ns;  // default: the steady clock
    // Default: there is no limit.
    std::function<MemoryHeadroom()> headroom;
    // Between two slices of memory that is given back. A GiB takes a third of
    // a second, and no thread waits for more than one slice.
    std::chrono::nanoseconds release_pause = std::chrono::milliseconds(1);
    bool has_keeper = true;  // false: only Tidy() does what the keeper does
    // Receives one line if a load gets no pool or less than it needs; a line is
    // not repeated while it is among the recent ones. Called without locks of
    // the registry held. Default: drops it.
    std::function<void(const std::string&)> log;
    // Receives one line, at the first load that gets a pool.
    std::function<void(const std::string&)> log_info;
    // Called for each new pool, before any load uses it, with a lock of the
    // registry held: must not call back. Default: nothing.
    std::function<void(uint8_t id, ModelPool* pool)> on_new_pool;
  };

  explicit PoolRegistry(Options options);
  ~PoolRegistry() override;

  // What a load says about itself.
  struct Load {
    ModelIdentity identity;
    size_t bytes = 0;  // 0 = not known
    // The device that one session alone has; 0 = none. What it restores and
    // its constants share pools with nobody else.
    uint64_t device = 0;
    // Hashes of what is restored, as far as they are known.
    std::vector<uint64_t> keys = {};
  };

  // Starts a load and makes room for it. It joins the version's pool, unless
  // one of its keys has been restored there before: that is the same version
  // loaded once more. Else it takes a range, as its label then says. Returns
  // the id of the pool, or 0 if there is none: too many versions of the model
  // are alive, the limit is reached, or the system refuses memory. The load
  // then belongs in the device's own allocator; it is counted and logged. A
  // non-zero id must be given to EndLoad().
  uint8_t BeginLoad(const Load& load);
  void EndLoad(uint8_t id);

  // nullptr if there is no such pool. One atomic read.
  ModelPool* pool(uint8_t id) const {
    return pools_[id].load(std::memory_order_acquire);
  }

  // The name of the version of pool `id`, "" if there is none.
  std::string NameOf(uint8_t id) const;

  // In order of model directory, then slot.
  std::vector<PoolStats> List() const;
  Totals GetTotals() const;

  // The name of the pool that `address` lies in, "" if it is in none.
  std::string PoolOf(const void* address) const;

  // Gives all standby memory back, in slices with pauses between them. A load
  // that needs the range keeps what is left; one that is short of memory goes
  // first, on its own thread. Returns bytes.
  size_t Trim();

  // What the keeper does whenever a pool has become idle: offers standby memory
  // to the system, gives back what TF_MODEL_POOL_RETAIN does not keep, and with
  // TF_MODEL_POOL_PREPARE=on makes usable what is missing. Returns nanoseconds
  // until there is more to do; -1 = nothing, unless something happens.
  int64_t Tidy();

  // Counts bytes that pool `id` had no room for.
  void CountFallbackBytes(uint8_t id, size_t bytes);

  // Around fork(2), on the thread that forks. The child can load, allocate and
  // free; the keeper starts anew when it is needed.
  void BeforeFork();
  void AfterFork(bool in_child);

  // MemoryBudget. With `make_room`, Charge() gives standby memory back, least
  // recently used first, if that makes room, before it refuses; and if the
  // system has less left than `bytes`.
  bool Charge(size_t bytes, bool make_room) override;
  void Refund(size_t bytes) override;
  bool MakeRoom() override;

 private:
  // A pool and its label.
  struct Slot {
    uint8_t id = 0;
    char letter = 'A';
    ModelIdentity identity;
    uint64_t device = 0;
    std::unordered_set<uint64_t> keys;  // restored by this version
    std::unique_ptr<ModelPool> pool;
    size_t num_loads = 0;
  };

  // These REQUIRE mu_.
  Slot* PoolToJoin(const Load& load);
  // nullptr with the reason. `refused` is a range that could not grow.
  Slot* RangeFor(const Load& load, const Slot* refused, std::string* reason);
  Slot* NewSlot();
  int NumAlive(const std::string& model_dir) const;
  void Label(Slot* slot, const ModelIdentity& identity) const;

  void Prepare();
  void CountFallbackLoad(const Load& load, const std::string& reason);
  void LogOnce(const std::string& line);
  // Why Reserve(bytes) of this pool failed.
  std::string WhyRefused(const ModelPool& pool, size_t bytes) const;

  std::vector<ModelPool*> Pools() const;
  // With memory, least recently used first.
  std::vector<ModelPool*> Standby() const;
  size_t StandbyBytes() const;
  // What the largest version alive needs; if none is, what it needed last.
  size_t BytesToKeep();
  size_t TrimPool(ModelPool* standby, bool paced, size_t most);
  // Gives standby memory back on this thread, up to `step` bytes of a pool at a
  // time, until `enough` or none is left.
  void TrimUntil(size_t step, const std::function<bool()>& enough);
  // Waits between two slices. Returns false as soon as somebody waits for the
  // pool or its memory.
  bool PauseRelease(const ModelPool& pool);
  // Makes whoever waits in a pause look up; and the keeper do its work.
  void WakeKeeper(bool to_look);
  void KeeperLoop();

  const Options options_;
  std::array<std::atomic<ModelPool*>, kMaxPools + 1> pools_{};
  std::atomic<size_t> reserved_{0};
  std::atomic<size_t> kept_{0};  // what BytesToKeep() last returned

  // Held while memory is given back, so that a load that needs it waits. Taken
  // after growth_mu_ of a pool, before everything else.
  std::mutex trim_mu_;

  // Taken before mu_ of a pool; nobody who holds it waits for growth_mu_.
  mutable std::mutex mu_;
  std::vector<std::unique_ptr<Slot>> slots_;
  bool unannounced_ = true;  // no load has been given a pool yet
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
  bool woken_ = false;          // the keeper has to look
  int waiting_for_memory_ = 0;  // loads
  bool stopping_ = false;
  bool keeper_runs_ = false;
  pthread_t keeper_;
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_POOL_REGISTRY_H_
