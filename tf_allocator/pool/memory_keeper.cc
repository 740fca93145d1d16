// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/memory_keeper.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <new>
#include <utility>

namespace tf_model_pool {
namespace {

constexpr int64_t kNsPerSecond = 1000000000;
// After a look that failed.
constexpr int64_t kRetryNs = kNsPerSecond;
constexpr size_t kAll = std::numeric_limits<size_t>::max();

// Forgets who holds it or waits for it: other threads, which a forked child has
// not.
template <typename T>
void MakeAnew(T* held) {
  new (held) T;
}

}  // namespace

MemoryKeeper::MemoryKeeper(Options options, const PoolTable* pools)
    : options_(std::move(options)), pools_(*pools) {}

MemoryKeeper::~MemoryKeeper() { Stop(); }

void MemoryKeeper::Stop() {
  {
    std::lock_guard<std::mutex> lock(background_mu_);
    stopping_ = true;
  }
  background_wakes_.notify_all();
  if (runs_) pthread_join(thread_, nullptr);
  runs_ = false;
}

bool MemoryKeeper::Charge(size_t bytes, bool make_room) {
  const size_t limit =
      options_.policy.limit_bytes == 0 ? kAll : options_.policy.limit_bytes;
  if (bytes > limit) return false;
  const auto take = [&] {
    size_t taken = charged_.load();
    while (taken <= limit - bytes) {
      if (charged_.compare_exchange_weak(taken, taken + bytes)) return true;
    }
    return false;
  };
  // Without standby memory the load runs short as any other would.
  const auto has_room = [&] {
    return (make_room && StandbyBytes() == 0) ||
           options_.headroom().bytes >= bytes;
  };
  bool charged = has_room() && take();
  if (charged || !make_room) return charged;
  TrimUntil(bytes, [&] {
    charged = has_room() && take();
    const size_t taken = charged_.load();
    // A load that is refused anyway must not cost others their memory.
    return charged || taken - std::min(taken, StandbyBytes()) > limit - bytes;
  });
  return charged || take();
}

void MemoryKeeper::Refund(size_t bytes) { charged_ -= bytes; }

bool MemoryKeeper::MakeRoom() {
  if (StandbyBytes() == 0) return false;
  TrimUntil(kAll, [] { return false; });
  return true;
}

size_t MemoryKeeper::Trim() {
  size_t bytes = 0;
  for (ModelPool* p : pools_.All()) {
    size_t part;
    do {
      std::lock_guard<std::mutex> trimming(trim_mu_);
      part = TrimPool(p, /*paced=*/true, kAll);
      bytes += part;
    } while (part > 0);
  }
  return bytes;
}

int64_t MemoryKeeper::Tidy() {
  if (options_.policy.prepare) options_.prepare();
  const std::vector<ModelPool*> standby = Standby();
  bool offered = true;
  for (ModelPool* p : standby) offered = p->Offer() && offered;
  // Memory that the system cannot take counts against the limit that it kills
  // at.
  const bool keep = offered || !options_.headroom().limited;

  std::lock_guard<std::mutex> trimming(trim_mu_);
  const size_t there = StandbyBytes();
  size_t surplus = there - std::min(there, BytesToKeep());
  int64_t wait_ns = -1;
  for (ModelPool* p : standby) {
    size_t most = surplus;
    if (!keep || options_.policy.retain == PoolPolicy::Retain::kRelease) {
      most = kAll;
    } else if (options_.policy.retain == PoolPolicy::Retain::kSeconds) {
      const int64_t since = p->idle_since_ns();
      if (since < 0) continue;
      const int64_t left = since - options_.now_ns() +
                           options_.policy.retain_seconds * kNsPerSecond;
      most = left <= 0 ? kAll : 0;
      if (left > 0) wait_ns = wait_ns < 0 ? left : std::min(wait_ns, left);
    }
    if (most == 0) continue;
    surplus -= std::min(surplus, TrimPool(p, /*paced=*/true, most));
  }
  return wait_ns;
}

std::vector<ModelPool*> MemoryKeeper::Standby() const {
  std::vector<std::pair<int64_t, ModelPool*>> by_time;
  for (ModelPool* p : pools_.All()) {
    const int64_t since = p->idle_since_ns();
    if (since >= 0 && p->bytes_reserved() > 0) by_time.emplace_back(since, p);
  }
  std::stable_sort(
      by_time.begin(), by_time.end(),
      [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<ModelPool*> standby;
  for (const auto& [since, p] : by_time) standby.push_back(p);
  return standby;
}

size_t MemoryKeeper::StandbyBytes() const {
  size_t bytes = 0;
  for (const ModelPool* p : pools_.All()) {
    if (p->idle()) bytes += p->bytes_reserved();
  }
  return bytes;
}

size_t MemoryKeeper::BytesToKeep() {
  bool alive = false;
  size_t needed = 0;
  for (const ModelPool* p : pools_.All()) {
    const PoolState state = p->state();
    if (state == PoolState::kStandby) continue;
    alive = true;
    needed = std::max(needed, p->bytes_needed());
    // It may not have said yet what it needs.
    if (state == PoolState::kLoading) needed = std::max(needed, kept_.load());
  }
  if (alive) kept_ = needed;
  return kept_;
}

size_t MemoryKeeper::TrimPool(ModelPool* standby, bool paced, size_t most) {
  const size_t bytes =
      standby->Trim([&] { return !paced || PauseRelease(*standby); }, most);
  trimmed_bytes_ += bytes;
  return bytes;
}

void MemoryKeeper::TrimUntil(size_t step, const std::function<bool()>& enough) {
  {
    std::lock_guard<std::mutex> lock(background_mu_);
    ++waiting_for_memory_;
  }
  background_wakes_.notify_all();
  {
    std::lock_guard<std::mutex> trimming(trim_mu_);
    while (!enough()) {
      // The first one may have been taken by a load since.
      const std::vector<ModelPool*> standby = Standby();
      if (std::none_of(standby.begin(), standby.end(), [&](ModelPool* p) {
            return TrimPool(p, /*paced=*/false, step) > 0;
          })) {
        break;
      }
    }
  }
  {
    std::lock_guard<std::mutex> lock(background_mu_);
    --waiting_for_memory_;
    woken_ = true;  // the keeper may have stopped for this
  }
  background_wakes_.notify_all();
}

bool MemoryKeeper::PauseRelease(const ModelPool& pool) {
  std::unique_lock<std::mutex> lock(background_mu_);
  return !background_wakes_.wait_for(lock, options_.release_pause, [&] {
    return waiting_for_memory_ > 0 || stopping_ || !pool.idle();
  });
}

void MemoryKeeper::Wake(bool to_look) {
  {
    std::lock_guard<std::mutex> lock(background_mu_);
    if (to_look) woken_ = true;
    // Not std::thread: its failure would end the process, and what is not kept
    // tidy is only kept.
    if (to_look && options_.has_thread && !runs_) {
      const auto run = [](void* keeper) -> void* {
        static_cast<MemoryKeeper*>(keeper)->Loop();
        return nullptr;
      };
      runs_ = pthread_create(&thread_, nullptr, run, this) == 0;
    }
  }
  background_wakes_.notify_all();
}

void MemoryKeeper::Loop() {
  pthread_setname_np(pthread_self(), "tf_model_pool");
  std::unique_lock<std::mutex> lock(background_mu_);
  while (!stopping_) {
    woken_ = false;
    lock.unlock();
    int64_t wait_ns = kRetryNs;
    try {
      wait_ns = Tidy();
    } catch (const std::exception&) {
      // No memory for it.
    }
    lock.lock();
    // A load that is short of memory gives back what it needs itself.
    const auto due = [this] {
      return stopping_ || (woken_ && waiting_for_memory_ == 0);
    };
    if (wait_ns < 0) {
      background_wakes_.wait(lock, due);
    } else {
      background_wakes_.wait_for(lock, std::chrono::nanoseconds(wait_ns), due);
    }
  }
}

void MemoryKeeper::AfterFork(bool in_child) {
  if (in_child) {
    MakeAnew(&trim_mu_);
    MakeAnew(&background_wakes_);
    runs_ = false;
    waiting_for_memory_ = 0;
  }
  background_mu_.unlock();
}

}  // namespace tf_model_pool
