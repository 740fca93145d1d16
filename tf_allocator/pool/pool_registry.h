// SPDX-License-Identifier: Apache-2.0
//
// The memory of the process's model versions: one stock of ranges, and which
// load gets which.
//
// High-level model
// - A range (ModelPool) holds one version at a time. When nothing is left in it
//   it is on standby, and goes to the next load that it fits, of whichever
//   model. Model, version and slot letter are labels; a range on standby keeps
//   those of the version that left it.
// - memory_keeper.h says how much all ranges may take, and looks after those on
//   standby.

#ifndef TF_ALLOCATOR_POOL_POOL_REGISTRY_H_
#define TF_ALLOCATOR_POOL_POOL_REGISTRY_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_set>
#include <vector>

#include "tf_allocator/pool/memory_headroom.h"
#include "tf_allocator/pool/memory_keeper.h"
#include "tf_allocator/pool/model_identity.h"
#include "tf_allocator/pool/model_pool.h"
#include "tf_allocator/pool/pool_policy.h"
#include "tf_allocator/pool/pool_stats.h"
#include "tf_allocator/pool/pool_table.h"
#include "tf_allocator/pool/system_memory.h"

namespace tf_model_pool {

// Thread-safe. Pools live as long as the registry.
class PoolRegistry {
 public:
  static constexpr int kMaxPools = PoolTable::kMaxPools;

  struct Options {
    PoolPolicy policy;
    SystemMemory* memory = nullptr;  // not owned
    size_t address_space_per_pool = ModelPool::kAddressSpace;
    std::function<int64_t()> now_ns;  // default: the steady clock
    // Default: there is no limit.
    std::function<MemoryHeadroom()> headroom;
    // See MemoryKeeper::Options for this and the next.
    std::chrono::nanoseconds release_pause = std::chrono::milliseconds(1);
    bool has_keeper = true;
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
  ~PoolRegistry();

  // A load, as it describes itself.
  struct Load {
    ModelIdentity identity;
    std::optional<size_t> bytes = {};  // none = not known
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
  ModelPool* pool(uint8_t id) const { return table_.Get(id); }

  // The name of the version of pool `id`, "" if there is none.
  std::string NameOf(uint8_t id) const;

  // In order of model directory, then slot.
  std::vector<PoolStats> List() const;
  Totals GetTotals() const;

  // The name of the pool that `address` lies in, "" if it is in none.
  std::string PoolOf(const void* address) const;

  // See memory_keeper.h.
  size_t Trim() { return keeper_.Trim(); }
  int64_t Tidy() { return keeper_.Tidy(); }

  // Counts bytes that pool `id` had no room for.
  void CountFallbackBytes(uint8_t id, size_t bytes);

  // Around fork(2), on the thread that forks. The child can load, allocate and
  // free; the keeper starts anew when it is needed.
  void BeforeFork();
  void AfterFork(bool in_child);

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

  const Options options_;
  PoolTable table_;
  MemoryKeeper keeper_;

  // Taken before mu_ of a pool; nobody who holds it waits for growth_mu_.
  mutable std::mutex mu_;
  std::vector<std::unique_ptr<Slot>> slots_;
  bool unannounced_ = true;  // no load has been given a pool yet
  size_t fallback_loads_ = 0;
  size_t fallback_bytes_ = 0;
  size_t prepared_bytes_ = 0;
  std::string last_fallback_reason_;
  size_t loads_into_new_memory_ = 0;
  size_t loads_into_reused_memory_ = 0;
  std::set<std::string> logged_;
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_POOL_REGISTRY_H_
