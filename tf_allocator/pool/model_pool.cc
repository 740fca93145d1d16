// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/model_pool.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <new>
#include <utility>

namespace tf_model_pool {
namespace {

// A load of unknown size grows by a quarter of what the pool has, within this
// bound, so that mappings stay few and little is mapped in vain.
constexpr size_t kMaxGrowthAhead = size_t{64} << 20;

// Given back or offered at once: two huge pages, or some 100 microseconds with
// small ones.
constexpr size_t kReleaseSlice = 2 * kRegionGranularity;

// Made usable at once ahead of need: what a load that wants the pool waits for.
constexpr size_t kPreparePiece = 4 * kRegionGranularity;

uintptr_t AsAddress(const void* p) { return reinterpret_cast<uintptr_t>(p); }

}  // namespace

ModelPool::ModelPool(SystemMemory* memory, MemoryBudget* budget,
                     Options options)
    : memory_(memory),
      budget_(budget),
      options_(std::move(options)),
      address_space_is_scarce_(memory->AddressSpaceIsScarce()) {
  idle_since_ns_ = options_.now_ns();
}

ModelPool::~ModelPool() { Return(TakeAll()); }

void ModelPool::BeginLoad(bool new_version) {
  std::lock_guard<std::mutex> lock(mu_);
  ++loads_;
  idle_since_ns_ = -1;
  if (new_version) peak_in_use_ = in_use_;
}

void ModelPool::EndLoad() {
  bool became_idle;
  {
    std::lock_guard<std::mutex> lock(mu_);
    if (--loads_ == 0) promised_ = 0;
    became_idle = NoteIfIdle();
  }
  if (became_idle) options_.on_idle();
}

bool ModelPool::Reserve(size_t bytes) {
  std::lock_guard<std::mutex> growth(growth_mu_);
  size_t missing = 0;
  std::vector<Region> too_small;
  {
    std::lock_guard<std::mutex> lock(mu_);
    // A sum that wraps would count as room enough.
    if (bytes > std::numeric_limits<size_t>::max() / 4 - promised_)
      return false;
    promised_ += bytes;
    if (promised_ > free_bytes_) missing = promised_ - free_bytes_;
    // A tensor may need most of it in one piece, and not find twice that much.
    if (missing > 0 && address_space_is_scarce_ && in_use_ == 0 &&
        RegionWithRoom(missing) < 0) {
      too_small = TakeAll();
      missing = promised_;
    }
  }
  Return(too_small);
  if (missing == 0 || Grow(missing)) return true;
  std::lock_guard<std::mutex> lock(mu_);
  promised_ -= std::min(promised_, bytes);
  return false;
}

void* ModelPool::Allocate(size_t alignment, size_t bytes) {
  if (bytes == 0 || bytes > options_.address_space) return nullptr;
  alignment = std::max(alignment, kChunkGranularity);
  if (alignment > kRegionGranularity) return nullptr;
  const size_t size = RoundUp(bytes, kChunkGranularity);
  {
    std::lock_guard<std::mutex> lock(mu_);
    if (void* p = AllocateFromFree(alignment, size, bytes)) return p;
  }
  std::unique_lock<std::mutex> growth(growth_mu_);
  size_t ahead;
  {
    // Another thread may have grown the pool while this one waited.
    std::lock_guard<std::mutex> lock(mu_);
    if (void* p = AllocateFromFree(alignment, size, bytes)) return p;
    ahead = std::min(kMaxGrowthAhead, committed_ / 4);
  }
  // Growth can make the budget trim idle pools, which this one is not now.
  BeginLoad(/*new_version=*/false);
  void* p = nullptr;
  // Growth starts at a multiple of kRegionGranularity, so alignment costs it
  // nothing.
  if ((ahead > size && Grow(ahead)) || Grow(size)) {
    std::lock_guard<std::mutex> lock(mu_);
    p = AllocateFromFree(alignment, size, bytes);
  }
  growth.unlock();
  EndLoad();
  return p;
}

bool ModelPool::Deallocate(void* address) {
  bool became_idle;
  {
    std::lock_guard<std::mutex> lock(mu_);
    const auto it = chunks_.find(AsAddress(address));
    if (it == chunks_.end() || it->second.requested == 0) return false;
    const size_t size = it->second.size;
    const size_t region = it->second.region;
    chunks_.erase(it);
    in_use_ -= size;
    --num_tensors_;
    InsertFree(AsAddress(address), size, region);
    became_idle = NoteIfIdle();
  }
  if (became_idle) options_.on_idle();
  return true;
}

bool ModelPool::Sizes(const void* address, size_t* requested,
                      size_t* granted) const {
  std::lock_guard<std::mutex> lock(mu_);
  const auto it = chunks_.find(AsAddress(address));
  if (it == chunks_.end() || it->second.requested == 0) return false;
  *requested = it->second.requested;
  *granted = it->second.size;
  return true;
}

bool ModelPool::Contains(const void* address) const {
  std::lock_guard<std::mutex> lock(mu_);
  return std::any_of(regions_.begin(), regions_.end(),
                     [address](const Region& r) {
                       const Address base = AsAddress(r.base);
                       return AsAddress(address) >= base &&
                              AsAddress(address) < base + r.committed;
                     });
}

void ModelPool::AddFallback(size_t bytes) {
  std::lock_guard<std::mutex> lock(mu_);
  fallback_ += bytes;
  idle_since_ns_ = -1;
}

void ModelPool::RemoveFallback(size_t bytes) {
  bool became_idle;
  {
    std::lock_guard<std::mutex> lock(mu_);
    fallback_ -= bytes;
    became_idle = NoteIfIdle();
  }
  if (became_idle) options_.on_idle();
}

PoolState ModelPool::state() const {
  std::lock_guard<std::mutex> lock(mu_);
  return StateLocked();
}

int64_t ModelPool::idle_since_ns() const {
  std::lock_guard<std::mutex> lock(mu_);
  return IsIdle() ? idle_since_ns_ : -1;
}

size_t ModelPool::bytes_reserved() const {
  std::lock_guard<std::mutex> lock(mu_);
  return committed_;
}

size_t ModelPool::bytes_needed() const {
  std::lock_guard<std::mutex> lock(mu_);
  return RoundUp(std::max(peak_in_use_, in_use_ + promised_),
                 kRegionGranularity);
}

bool ModelPool::Offer() {
  for (size_t region = 0, begin = 0;;) {
    // Held for a slice, so that no tensor is written meanwhile.
    std::lock_guard<std::mutex> lock(mu_);
    if (!IsIdle() || offered_) return true;
    if (region >= regions_.size()) return offered_ = true;
    const Region& r = regions_[region];
    if (begin >= r.committed) {
      ++region;
      begin = 0;
      continue;
    }
    const size_t slice = std::min(kReleaseSlice, r.committed - begin);
    if (!memory_->Offer(r.base + begin, slice)) return false;
    begin += slice;
  }
}

size_t ModelPool::Trim(const std::function<bool()>& go_on, size_t most) {
  std::unique_lock<std::mutex> growth(growth_mu_, std::try_to_lock);
  if (!growth.owns_lock()) return 0;
  const bool divisible = memory_->Divisible();
  if (!divisible && most < bytes_reserved()) return 0;
  const size_t slice =
      divisible ? kReleaseSlice : std::numeric_limits<size_t>::max();
  // A load that begins now finds less free and waits for growth_mu_ to grow.
  std::vector<size_t> taken(regions_.size());
  size_t given_back = 0;
  while (given_back < most) {
    if (given_back > 0 && !go_on()) break;
    size_t region = 0;
    size_t bytes = 0;
    char* begin = nullptr;
    {
      std::lock_guard<std::mutex> lock(mu_);
      if (!IsIdle()) break;
      bytes = TakeFromEnd(std::min(slice, most - given_back), &region);
      if (bytes == 0) break;
      begin = regions_[region].base + regions_[region].committed;
    }
    if (divisible) memory_->Discard(begin, bytes);
    taken[region] += bytes;
    given_back += bytes;
  }
  // Only holders of growth_mu_ change regions_, so it can be read here.
  for (size_t i = 0; i < taken.size(); ++i) {
    if (taken[i] == 0) continue;
    memory_->Decommit(regions_[i].base + regions_[i].committed, taken[i]);
    budget_->Refund(taken[i]);
  }
  GiveAddressSpaceBack();
  return given_back;
}

size_t ModelPool::Prepare(size_t bytes) {
  size_t expected = 0;
  size_t added = 0;
  for (;;) {
    // Free between pieces: a load that has begun goes first.
    std::lock_guard<std::mutex> growth(growth_mu_);
    size_t piece, missing;
    {
      std::lock_guard<std::mutex> lock(mu_);
      const bool trimmed = added > 0 && committed_ != expected;
      if (!IsIdle() || trimmed || committed_ >= bytes) return added;
      missing = RoundUp(bytes - committed_, kRegionGranularity);
      piece = std::min(kPreparePiece, missing);
      expected = committed_ + piece;
    }
    if (!Grow(piece, /*make_room=*/false, missing)) return added;
    added += piece;
  }
}

void ModelPool::AfterFork(bool in_child) {
  // Whoever held it may be another thread, which the child has not.
  if (in_child) new (&growth_mu_) std::mutex;
  mu_.unlock();
}

void ModelPool::FillStats(PoolStats* stats) const {
  std::lock_guard<std::mutex> lock(mu_);
  stats->state = StateLocked();
  stats->bytes_in_use = in_use_;
  stats->peak_bytes_in_use = peak_in_use_;
  stats->bytes_reserved = committed_;
  stats->num_tensors = num_tensors_;
  stats->largest_free_block = free_.empty() ? 0 : free_.rbegin()->first;
  stats->fallback_bytes = fallback_;
  stats->num_regions = regions_.size();
  stats->num_mappings = num_mappings_;
  stats->prefault_ns = static_cast<uint64_t>(prefault_ns_);
}

bool ModelPool::Grow(size_t bytes, bool make_room, size_t address_space) {
  bytes = RoundUp(bytes, kRegionGranularity);
  if (!budget_->Charge(bytes, make_room)) return false;
  int place = -1;
  char* begin = nullptr;
  const int64_t start = options_.now_ns();
  // Only holders of growth_mu_ change regions_, so it can be read here.
  const auto map = [&] {
    place = PlaceForGrowth(bytes, std::max(bytes, address_space));
    if (place < 0) return false;
    begin = regions_[place].base + regions_[place].committed;
    return memory_->Commit(begin, bytes);
  };
  // Memory that nobody uses may be what the system's limits are full of. If
  // address space is refused for another reason, another range may have some.
  const auto room_may_help = [&] {
    return make_room && (place >= 0 || memory_->AddressSpaceIsScarce());
  };
  if (!(map() || (room_may_help() && budget_->MakeRoom() && map()))) {
    GiveAddressSpaceBack();
    budget_->Refund(bytes);
    return false;
  }
  const int64_t took = options_.now_ns() - start;
  std::lock_guard<std::mutex> lock(mu_);
  regions_[place].committed += bytes;
  committed_ += bytes;
  ++num_mappings_;
  offered_ = false;
  prefault_ns_ += took;
  InsertFree(AsAddress(begin), bytes, place);
  return true;
}

int ModelPool::RegionWithRoom(size_t bytes) const {
  bytes = RoundUp(bytes, kRegionGranularity);
  for (size_t i = 0; i < regions_.size(); ++i) {
    if (regions_[i].address_space - regions_[i].committed >= bytes) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

int ModelPool::PlaceForGrowth(size_t bytes, size_t address_space) {
  const int place = RegionWithRoom(bytes);
  if (place >= 0) return place;
  void* base = nullptr;
  size_t want = 0;
  if (!address_space_is_scarce_) {
    want = std::max(options_.address_space, bytes);
    base = memory_->Reserve(want);
    address_space_is_scarce_ = base == nullptr;
  }
  if (base == nullptr) {
    want = address_space;
    base = memory_->Reserve(want);
  }
  if (base == nullptr) return -1;
  std::lock_guard<std::mutex> lock(mu_);
  regions_.push_back({static_cast<char*>(base), want, 0});
  return static_cast<int>(regions_.size()) - 1;
}

void ModelPool::GiveAddressSpaceBack() {
  if (!address_space_is_scarce_) return;
  std::lock_guard<std::mutex> lock(mu_);
  for (Region& r : regions_) {
    if (r.address_space == r.committed) continue;
    memory_->Unreserve(r.base + r.committed, r.address_space - r.committed);
    r.address_space = r.committed;
  }
  // Chunks know their region by its number.
  while (!regions_.empty() && regions_.back().committed == 0) {
    regions_.pop_back();
  }
}

std::vector<ModelPool::Region> ModelPool::TakeAll() {
  std::vector<Region> regions;
  regions.swap(regions_);
  chunks_.clear();
  free_.clear();
  committed_ = 0;
  free_bytes_ = 0;
  return regions;
}

void ModelPool::Return(const std::vector<Region>& regions) {
  for (const Region& region : regions) {
    if (region.committed > 0) {
      memory_->Decommit(region.base, region.committed);
      budget_->Refund(region.committed);
    }
    memory_->Unreserve(region.base, region.address_space);
  }
}

void* ModelPool::AllocateFromFree(size_t alignment, size_t size,
                                  size_t requested) {
  for (auto it = free_.lower_bound({size, 0}); it != free_.end(); ++it) {
    const Address begin = it->second;
    const Address aligned = RoundUp(begin, alignment);
    const size_t skipped = aligned - begin;
    const size_t available = it->first;
    if (available < skipped + size) continue;
    const size_t region = chunks_.find(begin)->second.region;
    EraseFree(begin, available);
    if (skipped > 0) InsertFree(begin, skipped, region);
    const size_t rest = available - skipped - size;
    chunks_[aligned] = {size, requested, region};
    if (rest > 0) InsertFree(aligned + size, rest, region);
    in_use_ += size;
    peak_in_use_ = std::max(peak_in_use_, in_use_);
    promised_ -= std::min(promised_, size);
    ++num_tensors_;
    idle_since_ns_ = -1;
    return reinterpret_cast<void*>(aligned);
  }
  return nullptr;
}

void ModelPool::InsertFree(Address address, size_t size, size_t region) {
  free_bytes_ += size;
  auto next = chunks_.lower_bound(address);
  if (next != chunks_.end() && next->first == address + size &&
      next->second.requested == 0 && next->second.region == region) {
    free_.erase({next->second.size, next->first});
    size += next->second.size;
    next = chunks_.erase(next);
  }
  if (next != chunks_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second.size == address &&
        previous->second.requested == 0 && previous->second.region == region) {
      free_.erase({previous->second.size, previous->first});
      previous->second.size += size;
      free_.insert({previous->second.size, previous->first});
      return;
    }
  }
  chunks_[address] = {size, 0, region};
  free_.insert({size, address});
}

void ModelPool::EraseFree(Address address, size_t size) {
  free_.erase({size, address});
  chunks_.erase(address);
  free_bytes_ -= size;
}

size_t ModelPool::TakeFromEnd(size_t bytes, size_t* region) {
  for (size_t i = regions_.size(); i-- > 0;) {
    Region& r = regions_[i];
    if (r.committed == 0) continue;
    bytes = std::min(bytes, r.committed);
    // An idle pool is one free chunk in each region. Made smaller where it is:
    // there may be no memory for another.
    auto chunk = free_.extract({r.committed, AsAddress(r.base)});
    r.committed -= bytes;
    committed_ -= bytes;
    free_bytes_ -= bytes;
    if (r.committed == 0) {
      chunks_.erase(AsAddress(r.base));
    } else {
      chunks_.find(AsAddress(r.base))->second.size = r.committed;
      chunk.value().first = r.committed;
      free_.insert(std::move(chunk));
    }
    *region = i;
    return bytes;
  }
  return 0;
}

PoolState ModelPool::StateLocked() const {
  if (loads_ > 0) return PoolState::kLoading;
  return in_use_ > 0 || fallback_ > 0 ? PoolState::kLive : PoolState::kStandby;
}

bool ModelPool::NoteIfIdle() {
  if (!IsIdle() || idle_since_ns_ >= 0) return false;
  idle_since_ns_ = options_.now_ns();
  offered_ = false;
  return true;
}

}  // namespace tf_model_pool
