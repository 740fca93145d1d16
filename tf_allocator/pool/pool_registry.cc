// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/pool_registry.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <set>
#include <tuple>
#include <utility>

#include "tf_allocator/pool/thread_priority.h"

namespace tf_model_pool {
namespace {

constexpr int64_t kNsPerSecond = 1000000000;

// Enough that pools that are full at the same time do not log in turns.
constexpr size_t kRecentLines = 256;

int64_t SteadyNowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

PoolRegistry::Options WithDefaults(PoolRegistry::Options options) {
  if (!options.now_ns) options.now_ns = SteadyNowNs;
  if (!options.log) options.log = [](const std::string&) {};
  if (!options.on_new_pool) options.on_new_pool = [](uint8_t, ModelPool*) {};
  return options;
}

}  // namespace

PoolRegistry::PoolRegistry(Options options)
    : options_(WithDefaults(std::move(options))) {
  if (HasBackgroundThread()) {
    background_thread_ = std::thread([this] { BackgroundLoop(); });
  }
}

PoolRegistry::~PoolRegistry() {
  {
    std::lock_guard<std::mutex> lock(background_mu_);
    stopping_ = true;
  }
  background_wakes_.notify_all();
  if (background_thread_.joinable()) background_thread_.join();
}

uint8_t PoolRegistry::BeginLoad(const ModelIdentity& identity, size_t bytes) {
  Slot* slot;
  ModelIdentity previous;
  std::string reason;
  bool takes_slot = false;
  bool has_memory = false;
  {
    std::lock_guard<std::mutex> lock(mu_);
    slot = ChooseSlot(identity, bytes, &reason);
    if (slot != nullptr) {
      previous = slot->identity;
      slot->identity = identity;
      ++slot->num_loads;
      takes_slot = slot->pool->idle();
      has_memory = slot->pool->bytes_reserved() > 0;
      slot->pool->BeginLoad(/*new_version=*/takes_slot);
    }
  }
  if (slot == nullptr) {
    CountFallbackLoad(identity, bytes, reason);
    return 0;
  }
  WakeBackground(/*changed=*/false);
  // Mapping and faulting can take seconds: not under mu_.
  if (bytes == 0 || slot->pool->Reserve(bytes)) {
    if (takes_slot) {
      std::lock_guard<std::mutex> lock(mu_);
      ++(has_memory ? loads_into_reused_memory_ : loads_into_new_memory_);
    }
    return slot->id;
  }
  reason = WhyRefused(*slot->pool, bytes);
  slot->pool->EndLoad();
  {
    std::lock_guard<std::mutex> lock(mu_);
    --slot->num_loads;
    // The slot still holds what it held, unless another load has joined or the
    // previous version has been loaded elsewhere meanwhile.
    const bool loaded_elsewhere = std::any_of(
        slots_.begin(), slots_.end(),
        [&](const auto& other) { return other->identity == previous; });
    if (slot->pool->idle() && slot->identity == identity &&
        previous.model_dir == identity.model_dir && !loaded_elsewhere) {
      slot->identity = previous;
    }
  }
  CountFallbackLoad(identity, bytes, reason);
  return 0;
}

void PoolRegistry::EndLoad(uint8_t id) {
  if (ModelPool* p = pool(id)) p->EndLoad();
  if (options_.settings.prepare) WakeBackground(/*changed=*/true);
}

std::string PoolRegistry::NameOf(uint8_t id) const {
  std::lock_guard<std::mutex> lock(mu_);
  for (const auto& slot : slots_) {
    if (slot->id == id) return slot->identity.Name();
  }
  return "";
}

std::vector<PoolStats> PoolRegistry::List() const {
  std::vector<PoolStats> list;
  std::lock_guard<std::mutex> lock(mu_);
  for (const auto& slot : slots_) {
    // Made for a load that was refused: nothing has ever been in it.
    if (slot->num_loads == 0 && slot->pool->bytes_reserved() == 0) continue;
    PoolStats stats;
    stats.id = slot->id;
    stats.name = slot->identity.Name();
    stats.model_dir = slot->identity.model_dir;
    stats.version = slot->identity.version;
    stats.slot = slot->letter;
    stats.num_loads = slot->num_loads;
    slot->pool->FillStats(&stats);
    list.push_back(std::move(stats));
  }
  std::sort(
      list.begin(), list.end(), [](const PoolStats& a, const PoolStats& b) {
        return std::tie(a.model_dir, a.slot) < std::tie(b.model_dir, b.slot);
      });
  return list;
}

Totals PoolRegistry::GetTotals() const {
  Totals totals;
  for (const PoolStats& stats : List()) {
    totals.bytes_in_use += stats.bytes_in_use;
    totals.bytes_reserved += stats.bytes_reserved;
    totals.num_mappings += stats.num_mappings;
    totals.prefault_ns += stats.prefault_ns;
    ++totals.num_pools;
  }
  totals.limit_bytes = options_.settings.limit_bytes;
  std::lock_guard<std::mutex> lock(mu_);
  totals.fallback_loads = fallback_loads_;
  totals.fallback_bytes = fallback_bytes_;
  totals.trimmed_bytes = trimmed_bytes_;
  totals.prepared_bytes = prepared_bytes_;
  totals.last_fallback_reason = last_fallback_reason_;
  totals.loads_into_new_memory = loads_into_new_memory_;
  totals.loads_into_reused_memory = loads_into_reused_memory_;
  return totals;
}

std::string PoolRegistry::PoolOf(const void* address) const {
  std::lock_guard<std::mutex> lock(mu_);
  for (const auto& slot : slots_) {
    if (slot->pool->Contains(address)) return slot->identity.Name();
  }
  return "";
}

size_t PoolRegistry::Trim() {
  size_t bytes = 0;
  for (int id = 1; id <= kMaxPools; ++id) {
    ModelPool* p = pool(static_cast<uint8_t>(id));
    if (p == nullptr) continue;
    size_t part;
    do {
      std::lock_guard<std::mutex> trimming(trim_mu_);
      part = TrimPool(p, /*paced=*/true);
      bytes += part;
    } while (part > 0);
  }
  return bytes;
}

size_t PoolRegistry::TrimExpired() {
  const int64_t retain = RetainNs();
  if (retain < 0) return 0;
  std::lock_guard<std::mutex> trimming(trim_mu_);
  const int64_t now = options_.now_ns();
  size_t bytes = 0;
  for (int id = 1; id <= kMaxPools; ++id) {
    ModelPool* p = pool(static_cast<uint8_t>(id));
    if (p == nullptr) continue;
    const int64_t since = p->idle_since_ns();
    if (since >= 0 && now - since >= retain) {
      bytes += TrimPool(p, /*paced=*/true);
    }
  }
  return bytes;
}

size_t PoolRegistry::Prepare() {
  size_t total = 0;
  for (size_t i = 0;; ++i) {
    Slot* slot;
    size_t bytes = 0;
    {
      std::lock_guard<std::mutex> lock(mu_);
      if (i >= slots_.size()) return total;
      slot = SlotToPrepare(*slots_[i], &bytes);
    }
    if (slot == nullptr) continue;
    const size_t added = slot->pool->Prepare(bytes);
    total += added;
    std::lock_guard<std::mutex> lock(mu_);
    prepared_bytes_ += added;
  }
}

void PoolRegistry::CountFallbackBytes(uint8_t id, size_t bytes) {
  const std::string name = NameOf(id);
  const std::string reason =
      "the pool could not grow; see TF_MODEL_POOL_LIMIT_MB and the memory "
      "that the system allows this process";
  {
    std::lock_guard<std::mutex> lock(mu_);
    fallback_bytes_ += bytes;
    last_fallback_reason_ = reason;
  }
  LogOnce("Model pool " + name +
          " is full: tensors of this version go to the device's own "
          "allocator (" +
          reason + ")");
}

bool PoolRegistry::Charge(size_t bytes, bool make_room) {
  const size_t limit = options_.settings.limit_bytes == 0
                           ? std::numeric_limits<size_t>::max()
                           : options_.settings.limit_bytes;
  if (bytes > limit) return false;
  const auto take = [&] {
    size_t taken = reserved_.load();
    while (taken <= limit - bytes) {
      if (reserved_.compare_exchange_weak(taken, taken + bytes)) return true;
    }
    return false;
  };
  if (take()) return true;
  if (!make_room) return false;
  {
    std::lock_guard<std::mutex> lock(background_mu_);
    ++waiting_for_memory_;
  }
  background_wakes_.notify_all();
  bool charged = true;
  {
    std::lock_guard<std::mutex> trimming(trim_mu_);
    while (!take()) {
      const size_t taken = reserved_.load();
      // A load that is refused anyway must not cost others their memory.
      if (taken - std::min(taken, StandbyBytes()) > limit - bytes ||
          !TrimLeastRecentlyUsed()) {
        charged = false;
        break;
      }
    }
  }
  {
    std::lock_guard<std::mutex> lock(background_mu_);
    --waiting_for_memory_;
  }
  background_wakes_.notify_all();
  return charged;
}

void PoolRegistry::Refund(size_t bytes) { reserved_ -= bytes; }

PoolRegistry::Slot* PoolRegistry::ChooseSlot(const ModelIdentity& identity,
                                             size_t bytes,
                                             std::string* reason) {
  // The smallest slot that is large enough, else the largest.
  const auto better_fit = [bytes](const Slot* a, const Slot* b) {
    const size_t ra = a->pool->bytes_reserved();
    const size_t rb = b->pool->bytes_reserved();
    const bool fits_a = ra >= bytes;
    const bool fits_b = rb >= bytes;
    if (fits_a != fits_b) return fits_a;
    return fits_a ? ra < rb : ra > rb;
  };
  Slot* standby = nullptr;
  Slot* orphan = nullptr;
  int of_this_model = 0;
  for (const auto& slot : slots_) {
    if (slot->identity == identity) return slot.get();
    const bool own = slot->identity.model_dir == identity.model_dir;
    if (own) ++of_this_model;
    if (!slot->pool->idle()) continue;
    Slot*& best = own ? standby : orphan;
    if (!own && ModelIsAlive(slot->identity.model_dir)) continue;
    if (best == nullptr || better_fit(slot.get(), best)) best = slot.get();
  }
  if (standby != nullptr) return standby;
  if (of_this_model >= options_.settings.slots) {
    *reason = "every slot of the model is in use (TF_MODEL_POOL_SLOTS=" +
              std::to_string(options_.settings.slots) + ")";
    return nullptr;
  }
  const char letter = FreeLetter(identity.model_dir);
  // A model that is gone leaves its memory to the next one, so that a process
  // that loads many models one after another does not keep them all.
  Slot* slot = orphan != nullptr ? orphan : NewSlot();
  if (slot == nullptr) {
    *reason = "all " + std::to_string(kMaxPools) + " pools are in use";
    return nullptr;
  }
  slot->letter = letter;
  return slot;
}

PoolRegistry::Slot* PoolRegistry::NewSlot() {
  if (slots_.size() >= kMaxPools) return nullptr;
  const uint8_t id = static_cast<uint8_t>(slots_.size() + 1);
  ModelPool::Options pool_options;
  pool_options.address_space = options_.address_space_per_pool;
  pool_options.now_ns = options_.now_ns;
  pool_options.on_idle = [this] { WakeBackground(/*changed=*/true); };
  auto slot = std::make_unique<Slot>();
  slot->id = id;
  slot->pool = std::make_unique<ModelPool>(options_.memory, this,
                                           std::move(pool_options));
  slot->num_loads = 0;
  options_.on_new_pool(id, slot->pool.get());
  pools_[id].store(slot->pool.get(), std::memory_order_release);
  slots_.push_back(std::move(slot));
  return slots_.back().get();
}

PoolRegistry::Slot* PoolRegistry::SlotToPrepare(const Slot& live,
                                                size_t* bytes) {
  PoolStats stats;
  live.pool->FillStats(&stats);
  // What is loaded again in its place, without a version, shares its slot.
  if (stats.state != PoolState::kLive || live.identity.version.empty()) {
    return nullptr;
  }
  *bytes = RoundUp(stats.bytes_in_use, kRegionGranularity);
  Slot* standby = nullptr;
  Slot* orphan = nullptr;
  int of_this_model = 0;
  for (const auto& slot : slots_) {
    const bool own = slot->identity.model_dir == live.identity.model_dir;
    if (own) ++of_this_model;
    if (slot.get() == &live) continue;
    if (!slot->pool->idle()) {
      // An update is on its way, and leaves a slot behind.
      if (own) return nullptr;
      continue;
    }
    if (!own && ModelIsAlive(slot->identity.model_dir)) continue;
    Slot*& best = own ? standby : orphan;
    if (best == nullptr ||
        slot->pool->bytes_reserved() > best->pool->bytes_reserved()) {
      best = slot.get();
    }
  }
  if (standby != nullptr) {
    return standby->pool->bytes_reserved() < *bytes ? standby : nullptr;
  }
  if (of_this_model >= options_.settings.slots) return nullptr;
  const char letter = FreeLetter(live.identity.model_dir);
  Slot* slot = orphan != nullptr ? orphan : NewSlot();
  if (slot == nullptr) return nullptr;
  slot->letter = letter;
  slot->identity = {live.identity.model_dir, ""};
  return slot;
}

bool PoolRegistry::ModelIsAlive(const std::string& model_dir) const {
  return std::any_of(slots_.begin(), slots_.end(), [&](const auto& slot) {
    return slot->identity.model_dir == model_dir && !slot->pool->idle();
  });
}

char PoolRegistry::FreeLetter(const std::string& model_dir) const {
  std::set<char> taken;
  for (const auto& slot : slots_) {
    if (slot->identity.model_dir == model_dir) taken.insert(slot->letter);
  }
  char letter = 'A';
  while (taken.count(letter) > 0) ++letter;
  return letter;
}

void PoolRegistry::CountFallbackLoad(const ModelIdentity& identity,
                                     size_t bytes, const std::string& reason) {
  {
    std::lock_guard<std::mutex> lock(mu_);
    ++fallback_loads_;
    fallback_bytes_ += bytes;
    last_fallback_reason_ = reason;
  }
  LogOnce("No model pool for " + identity.Name() + " (" + identity.model_dir +
          "): " + reason + "; it uses the device's own allocator");
}

void PoolRegistry::LogOnce(const std::string& line) {
  {
    std::lock_guard<std::mutex> lock(mu_);
    if (logged_.size() >= kRecentLines) logged_.clear();
    if (!logged_.insert(line).second) return;
  }
  options_.log(line);
}

std::string PoolRegistry::WhyRefused(const ModelPool& pool,
                                     size_t bytes) const {
  PoolStats stats;
  pool.FillStats(&stats);
  const size_t free = stats.bytes_reserved - stats.bytes_in_use;
  const size_t missing =
      RoundUp(bytes - std::min(bytes, free), kRegionGranularity);
  const size_t limit = options_.settings.limit_bytes;
  const size_t taken = reserved_.load();
  std::string reason = "no memory for " + std::to_string(bytes) + " bytes: ";
  if (limit > 0 && (missing > limit || taken > limit - missing)) {
    return reason + "TF_MODEL_POOL_LIMIT_MB allows " + std::to_string(limit) +
           " bytes and " + std::to_string(taken) + " are taken";
  }
  return reason + "the system refused it";
}

bool PoolRegistry::TrimLeastRecentlyUsed() {
  std::vector<std::pair<int64_t, ModelPool*>> standby;
  for (int id = 1; id <= kMaxPools; ++id) {
    ModelPool* p = pool(static_cast<uint8_t>(id));
    if (p == nullptr || p->bytes_reserved() == 0) continue;
    const int64_t since = p->idle_since_ns();
    if (since >= 0) standby.emplace_back(since, p);
  }
  std::stable_sort(
      standby.begin(), standby.end(),
      [](const auto& a, const auto& b) { return a.first < b.first; });
  // The first one may have been taken by a load since.
  return std::any_of(standby.begin(), standby.end(), [this](const auto& entry) {
    return TrimPool(entry.second, /*paced=*/false) > 0;
  });
}

size_t PoolRegistry::TrimPool(ModelPool* standby, bool paced) {
  const size_t bytes =
      standby->Trim([&] { return !paced || PauseRelease(*standby); });
  std::lock_guard<std::mutex> lock(mu_);
  trimmed_bytes_ += bytes;
  return bytes;
}

size_t PoolRegistry::StandbyBytes() const {
  size_t bytes = 0;
  for (int id = 1; id <= kMaxPools; ++id) {
    const ModelPool* p = pool(static_cast<uint8_t>(id));
    if (p != nullptr && p->idle()) bytes += p->bytes_reserved();
  }
  return bytes;
}

bool PoolRegistry::PauseRelease(const ModelPool& pool) {
  std::unique_lock<std::mutex> lock(background_mu_);
  return !background_wakes_.wait_for(lock, options_.release_pause, [&] {
    return waiting_for_memory_ > 0 || stopping_ || !pool.idle();
  });
}

void PoolRegistry::WakeBackground(bool changed) {
  {
    std::lock_guard<std::mutex> lock(background_mu_);
    if (changed) changed_ = true;
  }
  background_wakes_.notify_all();
}

bool PoolRegistry::HasBackgroundThread() const {
  return RetainNs() >= 0 || options_.settings.prepare;
}

int64_t PoolRegistry::RetainNs() const {
  switch (options_.settings.retain) {
    case Settings::Retain::kStandby:
      return -1;
    case Settings::Retain::kRelease:
      return 0;
    case Settings::Retain::kSeconds:
      return options_.settings.retain_seconds * kNsPerSecond;
  }
  return -1;
}

void PoolRegistry::BackgroundLoop() {
  pthread_setname_np(pthread_self(), "tf_model_pool");
  LowerThreadPriority(options_.settings.load_priority);
  std::unique_lock<std::mutex> lock(background_mu_);
  while (!stopping_) {
    changed_ = false;
    if (options_.settings.prepare) {
      lock.unlock();
      Prepare();
      lock.lock();
    }
    int64_t wait_ns = -1;
    for (int id = 1; RetainNs() >= 0 && id <= kMaxPools; ++id) {
      ModelPool* p = pool(static_cast<uint8_t>(id));
      if (p == nullptr || p->bytes_reserved() == 0) continue;
      const int64_t since = p->idle_since_ns();
      if (since < 0) continue;
      const int64_t left =
          std::max<int64_t>(0, since + RetainNs() - options_.now_ns());
      wait_ns = wait_ns < 0 ? left : std::min(wait_ns, left);
    }
    if (wait_ns == 0 && waiting_for_memory_ > 0) {
      // The load that waits gives back what it needs, at its own priority.
      background_wakes_.wait(
          lock, [this] { return waiting_for_memory_ == 0 || stopping_; });
      continue;
    }
    if (wait_ns == 0) {
      lock.unlock();
      TrimExpired();
      lock.lock();
      continue;
    }
    const auto woken = [this] { return changed_ || stopping_; };
    if (wait_ns < 0) {
      background_wakes_.wait(lock, woken);
    } else {
      background_wakes_.wait_for(lock, std::chrono::nanoseconds(wait_ns),
                                 woken);
    }
  }
}

}  // namespace tf_model_pool
