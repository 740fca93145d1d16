// SPDX-License-Identifier: Apache-2.0
//
// One range of the stock: a best-fit allocator with coalescing (BFC) over
// address ranges of its own, which outlives the model versions that use it.
//
// High-level model
// - The pool takes a large range of address space once and makes memory usable
//   from its start, so that it grows in place: an empty pool is one free chunk,
//   and a version whose tensors sum to N bytes fits in N bytes.
// - Every byte made usable belongs to exactly one chunk, free or in use. The
//   bookkeeping lies outside the memory, which is therefore not touched.
// - A load announces its bytes with Reserve() before its first tensor; what is
//   missing is mapped and faulted in there, on the loading thread.
// - When the last tensor is gone the pool is idle. Its memory stays mapped for
//   the next load, until Trim(); Offer() lets the system have it meanwhile.

#ifndef TF_ALLOCATOR_POOL_MODEL_POOL_H_
#define TF_ALLOCATOR_POOL_MODEL_POOL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "tf_allocator/pool/pool_stats.h"
#include "tf_allocator/pool/system_memory.h"

namespace tf_model_pool {

// TensorFlow aligns tensors to 64 bytes (Allocator::kAllocatorAlignment); a
// chunk is a multiple of that.
constexpr size_t kChunkGranularity = 64;

// A limit to what all pools together keep mapped.
class MemoryBudget {
 public:
  virtual ~MemoryBudget() = default;
  // Returns false if `bytes` more would exceed the limit. With `make_room`,
  // others may lose memory that they do not use.
  virtual bool Charge(size_t bytes, bool make_room) = 0;
  virtual void Refund(size_t bytes) = 0;
  // The system has refused memory: gives back what nobody uses. Returns false
  // if there is none.
  virtual bool MakeRoom() = 0;
};

// Thread-safe. The pool must not be destroyed while a tensor lies in it.
class ModelPool {
 public:
  // 256 GiB: larger than a model that one server holds, and 255 pools of it
  // fit in the 128 TiB that an x86-64 process can address. If address space is
  // scarce or refused, as much is taken as memory in it, and given back with
  // it.
  static constexpr size_t kAddressSpace = size_t{256} << 30;

  struct Options {
    size_t address_space = kAddressSpace;  // a multiple of kRegionGranularity
    std::function<int64_t()> now_ns;       // monotonic
    std::function<void()> on_idle;         // called without locks held
  };

  // Does not own `memory` and `budget`, which must outlive the pool.
  ModelPool(SystemMemory* memory, MemoryBudget* budget, Options options);
  ~ModelPool();
  ModelPool(const ModelPool&) = delete;
  ModelPool& operator=(const ModelPool&) = delete;

  // Marks the start of a load. The pool is not idle until the matching
  // EndLoad(). `new_version` starts the peak over.
  void BeginLoad(bool new_version);
  void EndLoad();

  // Makes room for `bytes` more, as a sum of sizes rounded up to
  // kChunkGranularity. Returns false if the memory can't be had.
  // REQUIRES: between BeginLoad() and EndLoad().
  bool Reserve(size_t bytes);

  // Returns nullptr for 0 bytes, or if the pool is full and cannot grow.
  // `alignment` is a power of two, at most kRegionGranularity. The contents
  // are undefined.
  void* Allocate(size_t alignment, size_t bytes);

  // Returns false if `address` was not returned by Allocate() or is free.
  bool Deallocate(void* address);

  // Sizes of a buffer of this pool, as asked for and as granted; false if
  // `address` is not one.
  bool Sizes(const void* address, size_t* requested, size_t* granted) const;

  // True if `address` lies in memory of this pool, in use or not.
  bool Contains(const void* address) const;

  // Counts bytes of this version that lie elsewhere for want of room. A pool
  // with such bytes is not idle: its version is still in use.
  void AddFallback(size_t bytes);
  void RemoveFallback(size_t bytes);

  PoolState state() const;
  bool idle() const { return state() == PoolState::kStandby; }
  // When the pool last became idle, by Options::now_ns; -1 if it is not.
  int64_t idle_since_ns() const;
  size_t bytes_reserved() const;
  // The bytes that the version in the pool takes, or took last: what it has had
  // in use or has announced, in multiples of kRegionGranularity.
  size_t bytes_needed() const;

  // Lets the system take the memory of an idle pool while nothing lies in it.
  // Returns false if the system does not know how.
  bool Offer();

  // Gives up to `most` bytes of an idle pool back, in slices from its end.
  // Between two of them calls `go_on`, which may wait; false keeps what is
  // left, and so does a load that begins meanwhile. Returns the bytes; 0 if the
  // pool is not idle, or is growing.
  size_t Trim(
      const std::function<bool()>& go_on = [] { return true; },
      size_t most = std::numeric_limits<size_t>::max());

  // Makes memory usable in an idle pool until it has `bytes`, piece by piece.
  // Stops if a load begins, the pool is trimmed, or the limit is reached:
  // nobody else's memory is given back for it. Returns the bytes added.
  size_t Prepare(size_t bytes);

  // Around fork(2), on the thread that forks. A load that another thread was
  // growing the pool for stays unfinished in the child.
  void BeforeFork() { mu_.lock(); }
  void AfterFork(bool in_child);

  // Fills the fields that the pool knows.
  void FillStats(PoolStats* stats) const;

 private:
  struct Chunk {
    size_t size;
    size_t requested;  // 0 = free
    size_t region;     // index into regions_; only neighbours of one coalesce
  };
  struct Region {
    char* base;
    size_t address_space;
    size_t committed;  // usable bytes, from base
  };
  using Address = uintptr_t;
  using Chunks = std::map<Address, Chunk>;

  // These REQUIRE growth_mu_, and mu_ not held.
  // Makes at least `bytes` more usable. Takes `address_space` if it needs some,
  // for what will follow.
  bool Grow(size_t bytes, bool make_room = true, size_t address_space = 0);
  // The region in which the next `bytes` can be committed, if need be a new one
  // of `address_space`; -1 if address space is out.
  int PlaceForGrowth(size_t bytes, size_t address_space);
  // Where it is scarce: what no memory is in.
  void GiveAddressSpaceBack();
  // Gives back regions that are none of the pool's any more. REQUIRES nothing.
  void Return(const std::vector<Region>& regions);
  // The region that can grow by so much, or -1. REQUIRES growth_mu_.
  int RegionWithRoom(size_t bytes) const;
  // The rest REQUIRE mu_.
  // Takes all regions and their chunks out of a pool that nothing lies in.
  std::vector<Region> TakeAll();
  void* AllocateFromFree(size_t alignment, size_t size, size_t requested);
  void InsertFree(Address address, size_t size, size_t region);
  void EraseFree(Address address, size_t size);
  // Takes up to `bytes` from the end of the last region with memory out of an
  // idle pool. Returns how many, and the region in `*region`.
  size_t TakeFromEnd(size_t bytes, size_t* region);
  PoolState StateLocked() const;
  bool IsIdle() const { return StateLocked() == PoolState::kStandby; }
  // Notes the time if the pool has become idle; whether it has.
  bool NoteIfIdle();

  SystemMemory* const memory_;
  MemoryBudget* const budget_;
  const Options options_;

  // Held for as long as mapping and faulting takes; always taken before mu_.
  std::mutex growth_mu_;
  bool address_space_is_scarce_;  // guarded by growth_mu_

  mutable std::mutex mu_;
  std::vector<Region> regions_;
  Chunks chunks_;                              // by address
  std::set<std::pair<size_t, Address>> free_;  // by size: best fit is first
  size_t committed_ = 0;
  size_t free_bytes_ = 0;
  size_t in_use_ = 0;
  size_t peak_in_use_ = 0;
  size_t num_tensors_ = 0;
  size_t promised_ = 0;  // announced by loads and not allocated yet
  size_t fallback_ = 0;
  size_t num_mappings_ = 0;
  int64_t prefault_ns_ = 0;
  int loads_ = 0;
  int64_t idle_since_ns_ = 0;
  bool offered_ = false;  // since it became idle
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_MODEL_POOL_H_
