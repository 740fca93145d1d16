// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/pool_registry.h"

#include <algorithm>
#include <chrono>
#include <tuple>
#include <utility>

namespace tf_model_pool {
namespace {

// A load does not sit in a range that is more than twice too large, or this
// much if it is small: a large version would miss it.
constexpr size_t kSlack = size_t{64} << 20;

// Enough that pools that are full at the same time do not log in turns.
constexpr size_t kRecentLines = 256;

int64_t SteadyNowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

PoolRegistry::Options WithDefaults(PoolRegistry::Options options) {
  if (!options.now_ns) options.now_ns = SteadyNowNs;
  if (!options.headroom) options.headroom = [] { return MemoryHeadroom(); };
  if (!options.log) options.log = [](const std::string&) {};
  if (!options.log_info) options.log_info = [](const std::string&) {};
  if (!options.on_new_pool) options.on_new_pool = [](uint8_t, ModelPool*) {};
  return options;
}

MemoryKeeper::Options KeeperOptions(const PoolRegistry::Options& options,
                                    std::function<void()> prepare) {
  return {options.policy,        options.now_ns,     options.headroom,
          options.release_pause, options.has_keeper, std::move(prepare)};
}

}  // namespace

PoolRegistry::PoolRegistry(Options options)
    : options_(WithDefaults(std::move(options))),
      keeper_(KeeperOptions(options_, [this] { Prepare(); }), &table_) {}

PoolRegistry::~PoolRegistry() { keeper_.Stop(); }

uint8_t PoolRegistry::BeginLoad(const Load& load) {
  std::string reason;
  for (const Slot* refused = nullptr;;) {
    Slot* slot;
    bool joins;
    bool has_memory = false;
    {
      std::lock_guard<std::mutex> lock(mu_);
      slot = refused == nullptr ? PoolToJoin(load) : nullptr;
      joins = slot != nullptr;
      if (!joins) slot = RangeFor(load, refused, &reason);
      if (slot != nullptr) {
        has_memory = slot->pool->bytes_reserved() > 0;
        slot->pool->BeginLoad(/*new_version=*/!joins);
        if (!joins) {
          Label(slot, load.identity);
          slot->device = load.device;
          slot->keys.clear();
        }
        slot->keys.insert(load.keys.begin(), load.keys.end());
        ++slot->num_loads;
      }
    }
    if (slot == nullptr) break;
    keeper_.Wake(/*to_look=*/false);
    // Mapping and faulting can take seconds: not under mu_.
    if (!load.bytes || slot->pool->Reserve(*load.bytes)) {
      bool first = false;
      if (!joins) {
        std::lock_guard<std::mutex> lock(mu_);
        ++(has_memory ? loads_into_reused_memory_ : loads_into_new_memory_);
        std::swap(first, unannounced_);
      }
      if (first) {
        options_.log_info("Model pools are active: " + load.identity.Name() +
                          " (" + load.identity.model_dir + ") is loaded into " +
                          "slot " + slot->letter + ", " +
                          std::to_string(load.bytes.value_or(0)) + " bytes");
      }
      return slot->id;
    }
    reason = WhyRefused(*slot->pool, *load.bytes);
    {
      std::lock_guard<std::mutex> lock(mu_);
      --slot->num_loads;
    }
    slot->pool->EndLoad();
    if (joins || refused != nullptr) break;
    refused = slot;
  }
  CountFallbackLoad(load, reason);
  return 0;
}

void PoolRegistry::EndLoad(uint8_t id) {
  if (ModelPool* p = pool(id)) p->EndLoad();
  keeper_.NoteNeed();
  if (options_.policy.prepare) keeper_.Wake(/*to_look=*/true);
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
  totals.limit_bytes = options_.policy.limit_bytes;
  std::lock_guard<std::mutex> lock(mu_);
  totals.fallback_loads = fallback_loads_;
  totals.fallback_bytes = fallback_bytes_;
  totals.trimmed_bytes = keeper_.trimmed_bytes();
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

void PoolRegistry::BeforeFork() {
  mu_.lock();
  keeper_.BeforeFork();
  for (ModelPool* p : table_.All()) p->BeforeFork();
}

void PoolRegistry::AfterFork(bool in_child) {
  for (ModelPool* p : table_.All()) p->AfterFork(in_child);
  keeper_.AfterFork(in_child);
  mu_.unlock();
}

PoolRegistry::Slot* PoolRegistry::PoolToJoin(const Load& load) {
  for (const auto& slot : slots_) {
    if (slot->identity == load.identity && slot->device == load.device &&
        !slot->pool->idle() &&
        std::none_of(load.keys.begin(), load.keys.end(),
                     [&](uint64_t key) { return slot->keys.count(key) > 0; })) {
      return slot.get();
    }
  }
  return nullptr;
}

PoolRegistry::Slot* PoolRegistry::RangeFor(const Load& load,
                                           const Slot* refused,
                                           std::string* reason) {
  if (NumAlive(load.identity.model_dir) >= options_.policy.slots) {
    *reason = "every slot of the model is in use (TF_MODEL_POOL_SLOTS=" +
              std::to_string(options_.policy.slots) + ")";
    return nullptr;
  }
  // The largest is taken: by how well the range fits, then by its size.
  enum Fit { kOnlyIfNoneCanBeMade, kEmpty, kGrows, kHolds };
  using Rank = std::tuple<Fit, bool, int64_t, bool>;
  const auto rank = [&](const Slot& slot) -> Rank {
    const size_t has = slot.pool->bytes_reserved();
    const int64_t size = static_cast<int64_t>(has);
    const bool own = slot.identity.model_dir == load.identity.model_dir;
    if (refused != nullptr) return {kOnlyIfNoneCanBeMade, false, size, own};
    if (has == 0) return {kEmpty, own, 0, own};
    // The best guess there is: what the model's last version left.
    if (!load.bytes) return {kHolds, own, size, own};
    const size_t bytes = *load.bytes;
    if (has >= bytes && has - bytes <= std::max(bytes, kSlack)) {
      return {kHolds, false, -size, own};
    }
    const bool grows = has < bytes && has >= bytes - has;
    return {grows ? kGrows : kOnlyIfNoneCanBeMade, false, size, own};
  };
  Slot* best = nullptr;
  for (const auto& slot : slots_) {
    if (slot.get() == refused || !slot->pool->idle()) continue;
    if (best == nullptr || rank(*slot) > rank(*best)) best = slot.get();
  }
  if (refused == nullptr &&
      (best == nullptr || std::get<Fit>(rank(*best)) == kOnlyIfNoneCanBeMade)) {
    if (Slot* slot = NewSlot()) return slot;
    *reason = "all " + std::to_string(kMaxPools) + " pools are in use";
  }
  return best;
}

PoolRegistry::Slot* PoolRegistry::NewSlot() {
  if (slots_.size() >= kMaxPools) return nullptr;
  auto slot = std::make_unique<Slot>();
  slot->id = static_cast<uint8_t>(slots_.size() + 1);
  ModelPool::Options pool_options;
  pool_options.address_space = options_.address_space_per_pool;
  pool_options.now_ns = options_.now_ns;
  pool_options.on_idle = [this] { keeper_.Wake(/*to_look=*/true); };
  slot->pool = std::make_unique<ModelPool>(options_.memory, &keeper_,
                                           std::move(pool_options));
  options_.on_new_pool(slot->id, slot->pool.get());
  table_.Set(slot->id, slot->pool.get());
  slots_.push_back(std::move(slot));
  return slots_.back().get();
}

int PoolRegistry::NumAlive(const std::string& model_dir) const {
  return static_cast<int>(
      std::count_if(slots_.begin(), slots_.end(), [&](const auto& slot) {
        return slot->identity.model_dir == model_dir && !slot->pool->idle();
      }));
}

void PoolRegistry::Label(Slot* slot, const ModelIdentity& identity) const {
  std::string taken;
  std::string alive;
  for (const auto& other : slots_) {
    if (other.get() == slot || other->identity.model_dir != identity.model_dir)
      continue;
    taken += other->letter;
    if (!other->pool->idle()) alive += other->letter;
  }
  // With this one, more ranges than letters.
  if (taken.size() > 'Z' - 'A') taken = alive;
  const bool own = slot->identity.model_dir == identity.model_dir;
  if (!own || taken.find(slot->letter) != std::string::npos) {
    slot->letter = 'A';
    while (taken.find(slot->letter) != std::string::npos) ++slot->letter;
  }
  slot->identity = identity;
}

void PoolRegistry::Prepare() {
  Slot* grown = nullptr;
  size_t bytes = 0;
  {
    std::lock_guard<std::mutex> lock(mu_);
    const Slot* alive = nullptr;  // the largest version
    size_t needed = 0;
    size_t there = 0;
    for (const auto& slot : slots_) {
      const ModelPool& pool = *slot->pool;
      switch (pool.state()) {
        case PoolState::kLoading:
          return;  // EndLoad() comes back here
        case PoolState::kLive:
          if (alive == nullptr || pool.bytes_needed() > needed) {
            alive = slot.get();
            needed = pool.bytes_needed();
          }
          break;
        case PoolState::kStandby:
          if (grown == nullptr || pool.bytes_reserved() > bytes) {
            grown = slot.get();
            bytes = pool.bytes_reserved();
          }
          there += pool.bytes_reserved();
      }
    }
    // An update that is under way leaves memory behind when it is done.
    if (alive == nullptr || there >= needed || options_.policy.slots < 2 ||
        NumAlive(alive->identity.model_dir) > 1) {
      return;
    }
    if (grown == nullptr) grown = NewSlot();
    if (grown == nullptr) return;
    if (bytes == 0) Label(grown, {alive->identity.model_dir, ""});
    bytes += needed - there;
  }
  const size_t added = grown->pool->Prepare(bytes);
  std::lock_guard<std::mutex> lock(mu_);
  prepared_bytes_ += added;
}

void PoolRegistry::CountFallbackLoad(const Load& load,
                                     const std::string& reason) {
  {
    std::lock_guard<std::mutex> lock(mu_);
    ++fallback_loads_;
    fallback_bytes_ += load.bytes.value_or(0);
    last_fallback_reason_ = reason;
  }
  LogOnce("No model pool for " + load.identity.Name() + " (" +
          load.identity.model_dir + "): " + reason +
          "; it uses the device's own allocator");
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
  const size_t limit = options_.policy.limit_bytes;
  const size_t taken = keeper_.bytes_charged();
  std::string reason = "no memory for " + std::to_string(bytes) + " bytes: ";
  if (limit > 0 && (missing > limit || taken > limit - missing)) {
    return reason + "TF_MODEL_POOL_LIMIT_MB allows " + std::to_string(limit) +
           " bytes and " + std::to_string(taken) + " are taken";
  }
  return reason + "the system refused it";
}

}  // namespace tf_model_pool
