// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/pool_registry.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tf_allocator/pool/testing/fake_system_memory.h"

namespace tf_model_pool {
namespace {

constexpr size_t kPart = kRegionGranularity;

ModelIdentity Version(const std::string& model_dir, int version) {
  return {model_dir, std::to_string(version)};
}

// Waits for another thread; false where it takes absurdly long.
bool Eventually(const std::function<bool()>& condition) {
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

class PoolRegistryTest : public ::testing::Test {
 protected:
  // A version that is loaded: what its tensors take, in one of them.
  struct Loaded {
    uint8_t id = 0;
    void* tensor = nullptr;
  };

  ~PoolRegistryTest() override { registry_.reset(); }

  void MakeRegistry(const Settings& settings = Settings(),
                    size_t address_space = 32 * kMiB) {
    PoolRegistry::Options options;
    options.settings = settings;
    options.memory = &memory_;
    options.address_space_per_pool = address_space;
    options.now_ns = clock_.AsFunction();
    options.release_pause = release_pause_;
    options.log = [this](const std::string& line) {
      std::lock_guard<std::mutex> lock(log_mu_);
      log_.push_back(line);
    };
    options.on_new_pool = [this](uint8_t id, ModelPool* pool) {
      new_pools_.push_back({id, pool});
    };
    registry_ = std::make_unique<PoolRegistry>(options);
  }

  Loaded Load(const ModelIdentity& identity, size_t bytes) {
    Loaded loaded;
    loaded.id = registry_->BeginLoad(identity, bytes);
    if (loaded.id == 0) return loaded;
    loaded.tensor = registry_->pool(loaded.id)->Allocate(64, bytes);
    EXPECT_NE(loaded.tensor, nullptr);
    registry_->EndLoad(loaded.id);
    return loaded;
  }

  void Unload(const Loaded& loaded) {
    EXPECT_TRUE(registry_->pool(loaded.id)->Deallocate(loaded.tensor));
  }

  PoolStats StatsOf(uint8_t id) const {
    for (const PoolStats& stats : registry_->List()) {
      if (stats.id == id) return stats;
    }
    ADD_FAILURE() << "no pool " << int{id};
    return {};
  }

  size_t LoggedLines() {
    std::lock_guard<std::mutex> lock(log_mu_);
    return log_.size();
  }

  FakeSystemMemory memory_;
  FakeClock clock_;
  std::chrono::nanoseconds release_pause_{0};
  std::mutex log_mu_;
  std::vector<std::string> log_;
  std::vector<std::pair<uint8_t, ModelPool*>> new_pools_;
  std::unique_ptr<PoolRegistry> registry_;
};

Settings WithLimit(size_t bytes) {
  Settings settings;
  settings.limit_bytes = bytes;
  return settings;
}

Settings WithRetain(Settings::Retain retain, int64_t seconds = 0) {
  Settings settings;
  settings.retain = retain;
  settings.retain_seconds = seconds;
  return settings;
}

// Slots of one model.

TEST_F(PoolRegistryTest, VersionsAliveAtOnceGetSlotsOfTheirOwn) {
  MakeRegistry();
  const Loaded v1 = Load(Version("/m/ctr", 1), kPart);
  const Loaded v2 = Load(Version("/m/ctr", 2), kPart);
  const Loaded v3 = Load(Version("/m/ctr", 3), kPart);
  const std::vector<PoolStats> list = registry_->List();
  ASSERT_EQ(list.size(), 3u);
  const std::vector<Loaded> loaded = {v1, v2, v3};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(list[i].slot, 'A' + i);
    EXPECT_EQ(list[i].name, "ctr/" + std::to_string(i + 1));
    EXPECT_EQ(list[i].model_dir, "/m/ctr");
    EXPECT_EQ(list[i].version, std::to_string(i + 1));
    EXPECT_EQ(list[i].id, loaded[i].id);
    EXPECT_EQ(list[i].bytes_in_use, kPart);
    EXPECT_EQ(list[i].num_loads, 1u);
    EXPECT_EQ(registry_->NameOf(loaded[i].id), list[i].name);
    EXPECT_EQ(registry_->PoolOf(loaded[i].tensor), list[i].name);
  }
  for (const Loaded& l : loaded) Unload(l);
}

TEST_F(PoolRegistryTest, VersionLoadedTwiceSharesItsPool) {
  MakeRegistry();
  const Loaded a = Load(Version("/m/ctr", 1), kPart);
  const Loaded b = Load(Version("/m/ctr", 1), 2 * kPart);
  EXPECT_EQ(a.id, b.id);
  EXPECT_EQ(registry_->List().size(), 1u);
  EXPECT_EQ(StatsOf(a.id).bytes_in_use, 3 * kPart);
  EXPECT_EQ(StatsOf(a.id).num_loads, 2u);
  Unload(a);
  EXPECT_EQ(StatsOf(a.id).state, PoolState::kLive);
  Unload(b);
  EXPECT_EQ(StatsOf(a.id).state, PoolState::kStandby);
}

TEST_F(PoolRegistryTest, NextVersionTakesTheStandbySlotAndItsMemory) {
  MakeRegistry();
  const Loaded v1 = Load(Version("/m/ctr", 1), 2 * kPart);
  const Loaded v2 = Load(Version("/m/ctr", 2), 2 * kPart);
  Unload(v1);
  const size_t commits = memory_.commits();
  const Loaded v3 = Load(Version("/m/ctr", 3), 2 * kPart);
  EXPECT_EQ(v3.id, v1.id);
  EXPECT_EQ(v3.tensor, v1.tensor);
  EXPECT_EQ(memory_.commits(), commits);
  EXPECT_EQ(StatsOf(v3.id).name, "ctr/3");
  EXPECT_EQ(StatsOf(v3.id).slot, 'A');
  EXPECT_EQ(StatsOf(v2.id).bytes_in_use, 2 * kPart);
  Unload(v2);
  Unload(v3);
}

TEST_F(PoolRegistryTest, VersionsThatTakeASlotAreCountedByItsMemory) {
  MakeRegistry();
  const auto counts = [this] {
    const Totals totals = registry_->GetTotals();
    return std::make_pair(totals.loads_into_new_memory,
                          totals.loads_into_reused_memory);
  };
  const auto made = [](size_t fresh, size_t reused) {
    return std::make_pair(fresh, reused);
  };
  // Further restores of a version that is there are no load of a version.
  Loaded v1 = Load(Version("/m/ctr", 1), kPart);
  Loaded more = Load(Version("/m/ctr", 1), kPart);
  EXPECT_EQ(counts(), made(1, 0));
  Loaded v2 = Load(Version("/m/ctr", 2), kPart);
  EXPECT_EQ(counts(), made(2, 0));
  Unload(v1);
  Unload(more);
  Loaded v3 = Load(Version("/m/ctr", 3), kPart);
  EXPECT_EQ(counts(), made(2, 1));
  // The same version again, after it was gone; then a slot without memory.
  Unload(v3);
  v3 = Load(Version("/m/ctr", 3), kPart);
  EXPECT_EQ(counts(), made(2, 2));
  Unload(v3);
  registry_->Trim();
  v3 = Load(Version("/m/ctr", 3), kPart);
  EXPECT_EQ(counts(), made(3, 2));
  Unload(v2);
  Unload(v3);
}

TEST_F(PoolRegistryTest, RefusedLoadIsNoLoadOfAVersion) {
  MakeRegistry(WithLimit(2 * kPart));
  EXPECT_EQ(registry_->BeginLoad(Version("/m/ctr", 1), 3 * kPart), 0);
  const Totals totals = registry_->GetTotals();
  EXPECT_EQ(totals.loads_into_new_memory, 0u);
  EXPECT_EQ(totals.loads_into_reused_memory, 0u);
  EXPECT_EQ(totals.fallback_loads, 1u);
}

TEST_F(PoolRegistryTest, TotalsAddUpTheTimeOfMakingMemoryUsable) {
  memory_.on_commit = [this] { clock_.AdvanceSeconds(1); };
  MakeRegistry();
  const Loaded v1 = Load(Version("/m/ctr", 1), kPart);
  const Loaded v2 = Load(Version("/m/ctr", 2), kPart);
  EXPECT_EQ(StatsOf(v1.id).prefault_ns, 1000000000u);
  EXPECT_EQ(registry_->GetTotals().prefault_ns, 2000000000u);
  Unload(v1);
  Unload(v2);
}

TEST_F(PoolRegistryTest, SlotWhoseTensorOutlivesItsModelIsNotReused) {
  MakeRegistry();
  const Loaded v1 = Load(Version("/m/ctr", 1), kPart);
  void* kept = registry_->pool(v1.id)->Allocate(64, 100);
  Unload(v1);
  const Loaded v2 = Load(Version("/m/ctr", 2), kPart);
  EXPECT_NE(v2.id, v1.id);
  EXPECT_EQ(registry_->PoolOf(kept), "ctr/1");
  Unload(v2);
  EXPECT_TRUE(registry_->pool(v1.id)->Deallocate(kept));
}

TEST_F(PoolRegistryTest, SmallestStandbySlotThatIsLargeEnoughIsTaken) {
  MakeRegistry();
  const Loaded large = Load(Version("/m/ctr", 1), 6 * kPart);
  const Loaded middle = Load(Version("/m/ctr", 2), 4 * kPart);
  const Loaded small = Load(Version("/m/ctr", 3), 2 * kPart);
  Unload(large);
  Unload(middle);
  Unload(small);
  const Loaded next = Load(Version("/m/ctr", 4), 3 * kPart);
  EXPECT_EQ(next.id, middle.id);
  // Where none is large enough, the largest has to grow least.
  const Loaded huge = Load(Version("/m/ctr", 5), 8 * kPart);
  EXPECT_EQ(huge.id, large.id);
  Unload(next);
  Unload(huge);
}

TEST_F(PoolRegistryTest, ExhaustedSlotsAreAFallbackWithAReason) {
  Settings settings;
  settings.slots = 2;
  MakeRegistry(settings);
  const Loaded v1 = Load(Version("/m/ctr", 1), kPart);
  const Loaded v2 = Load(Version("/m/ctr", 2), kPart);
  EXPECT_EQ(registry_->BeginLoad(Version("/m/ctr", 3), kPart), 0);
  const Totals totals = registry_->GetTotals();
  EXPECT_EQ(totals.fallback_loads, 1u);
  EXPECT_NE(totals.last_fallback_reason.find("TF_MODEL_POOL_SLOTS"),
            std::string::npos);
  ASSERT_EQ(LoggedLines(), 1u);
  EXPECT_NE(log_[0].find("ctr/3"), std::string::npos) << log_[0];
  EXPECT_NE(log_[0].find("TF_MODEL_POOL_SLOTS"), std::string::npos) << log_[0];
  // Slots are per model.
  const Loaded other = Load(Version("/m/ranker", 1), kPart);
  EXPECT_NE(other.id, 0);
  Unload(v1);
  const Loaded v3 = Load(Version("/m/ctr", 3), kPart);
  EXPECT_EQ(v3.id, v1.id);
  Unload(v2);
  Unload(v3);
  Unload(other);
}

TEST_F(PoolRegistryTest, LineIsNotLoggedAgainForTheSameTrouble) {
  Settings settings;
  settings.slots = 1;
  MakeRegistry(settings);
  const Loaded v1 = Load(Version("/m/ctr", 1), kPart);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(registry_->BeginLoad(Version("/m/ctr", 2), kPart), 0);
    EXPECT_EQ(registry_->BeginLoad(Version("/m/ctr", 3), kPart), 0);
    registry_->CountFallbackBytes(v1.id, 100);
  }
  EXPECT_EQ(LoggedLines(), 3u);
  EXPECT_EQ(registry_->GetTotals().fallback_loads, 10u);
  EXPECT_EQ(registry_->GetTotals().fallback_bytes, 500u + 10 * kPart);
  Unload(v1);
}

// Several models.

TEST_F(PoolRegistryTest, ModelsOfOneNameInDifferentDirectoriesAreApart) {
  MakeRegistry();
  const Loaded a = Load(Version("/a/ctr", 1), kPart);
  const Loaded b = Load(Version("/b/ctr", 1), kPart);
  EXPECT_NE(a.id, b.id);
  EXPECT_EQ(StatsOf(a.id).name, StatsOf(b.id).name);
  EXPECT_EQ(StatsOf(a.id).model_dir, "/a/ctr");
  EXPECT_EQ(StatsOf(b.id).model_dir, "/b/ctr");
  EXPECT_EQ(StatsOf(a.id).slot, 'A');
  EXPECT_EQ(StatsOf(b.id).slot, 'A');
  Unload(a);
  Unload(b);
}

TEST_F(PoolRegistryTest, MemoryOfAModelThatIsGoneGoesToTheNextModel) {
  MakeRegistry();
  const Loaded a1 = Load(Version("/m/a", 1), kPart);
  const Loaded a2 = Load(Version("/m/a", 2), kPart);
  Unload(a1);
  Unload(a2);
  const Loaded b = Load(Version("/m/b", 7), kPart);
  EXPECT_TRUE(b.id == a1.id || b.id == a2.id);
  EXPECT_EQ(StatsOf(b.id).name, "b/7");
  EXPECT_EQ(StatsOf(b.id).slot, 'A');
  EXPECT_EQ(memory_.commits(), 2u);
  Unload(b);
}

TEST_F(PoolRegistryTest, StandbySlotOfAModelThatIsAliveIsLeftToIt) {
  MakeRegistry();
  const Loaded a1 = Load(Version("/m/a", 1), kPart);
  const Loaded a2 = Load(Version("/m/a", 2), kPart);
  Unload(a1);
  const Loaded b = Load(Version("/m/b", 1), kPart);
  EXPECT_NE(b.id, a1.id);
  const Loaded a3 = Load(Version("/m/a", 3), kPart);
  EXPECT_EQ(a3.id, a1.id);
  Unload(a2);
  Unload(a3);
  Unload(b);
}

TEST_F(PoolRegistryTest, ManyModelsOneAfterAnotherShareOneSlot) {
  MakeRegistry();
  for (int i = 0; i < 300; ++i) {
    Unload(Load(Version("/m/model" + std::to_string(i), 1), kPart));
  }
  EXPECT_EQ(registry_->List().size(), 1u);
  EXPECT_EQ(memory_.commits(), 1u);
  EXPECT_EQ(LoggedLines(), 0u);
}

TEST_F(PoolRegistryTest, IdsRunOutAfterTheLastOne) {
  MakeRegistry(Settings(), /*address_space=*/kPart);
  std::vector<Loaded> all;
  for (int i = 0; i < PoolRegistry::kMaxPools; ++i) {
    all.push_back(Load(Version("/m/model" + std::to_string(i), 1), 64));
    ASSERT_EQ(all.back().id, i + 1);
  }
  EXPECT_EQ(registry_->BeginLoad(Version("/m/one_more", 1), 64), 0);
  EXPECT_NE(registry_->GetTotals().last_fallback_reason.find("255"),
            std::string::npos);
  Unload(all[100]);
  const Loaded next = Load(Version("/m/one_more", 1), 64);
  EXPECT_EQ(next.id, all[100].id);
  all[100] = next;
  for (const Loaded& loaded : all) Unload(loaded);
}

TEST_F(PoolRegistryTest, ListIsInOrderOfDirectoryAndSlot) {
  MakeRegistry();
  std::vector<Loaded> all;
  for (const char* dir : {"/m/z", "/m/a", "/m/k"}) {
    all.push_back(Load(Version(dir, 2), 64));
    all.push_back(Load(Version(dir, 1), 64));
  }
  std::vector<std::string> order;
  for (const PoolStats& stats : registry_->List()) {
    order.push_back(stats.name + stats.slot);
  }
  EXPECT_EQ(order, (std::vector<std::string>{"a/2A", "a/1B", "k/2A", "k/1B",
                                             "z/2A", "z/1B"}));
  for (const Loaded& loaded : all) Unload(loaded);
}

// Lookup.

TEST_F(PoolRegistryTest, UnknownIdsAndAddressesAreInNoPool) {
  MakeRegistry();
  int elsewhere = 0;
  EXPECT_EQ(registry_->pool(0), nullptr);
  EXPECT_EQ(registry_->pool(1), nullptr);
  EXPECT_EQ(registry_->pool(255), nullptr);
  EXPECT_EQ(registry_->NameOf(1), "");
  EXPECT_EQ(registry_->PoolOf(&elsewhere), "");
  EXPECT_EQ(registry_->PoolOf(nullptr), "");
  registry_->EndLoad(0);
  registry_->EndLoad(200);
  Unload(Load(Version("/m/ctr", 1), 64));
  EXPECT_EQ(registry_->PoolOf(&elsewhere), "");
}

TEST_F(PoolRegistryTest, NewPoolIsAnnouncedOnceBeforeItsFirstLoad) {
  MakeRegistry();
  const Loaded v1 = Load(Version("/m/ctr", 1), kPart);
  ASSERT_EQ(new_pools_.size(), 1u);
  EXPECT_EQ(new_pools_[0].first, v1.id);
  EXPECT_EQ(new_pools_[0].second, registry_->pool(v1.id));
  Unload(v1);
  Unload(Load(Version("/m/ctr", 2), kPart));
  EXPECT_EQ(new_pools_.size(), 1u);
}

// Limits and refusals.

TEST_F(PoolRegistryTest, LimitTrimsStandbySlotsLeastRecentlyUsedFirst) {
  MakeRegistry(WithLimit(4 * kPart));
  const Loaded live = Load(Version("/m/a", 1), kPart);
  const Loaded a2 = Load(Version("/m/a", 2), kPart);
  const Loaded a3 = Load(Version("/m/a", 3), kPart);
  clock_.AdvanceSeconds(1);
  Unload(a3);
  clock_.AdvanceSeconds(1);
  Unload(a2);
  const Loaded b = Load(Version("/m/b", 1), 2 * kPart);
  ASSERT_NE(b.id, 0);
  EXPECT_EQ(StatsOf(a3.id).bytes_reserved, 0u);
  EXPECT_EQ(StatsOf(a2.id).bytes_reserved, kPart);
  EXPECT_EQ(StatsOf(live.id).bytes_in_use, kPart);
  EXPECT_EQ(registry_->GetTotals().trimmed_bytes, kPart);
  EXPECT_EQ(registry_->GetTotals().bytes_reserved, 4 * kPart);
  EXPECT_EQ(registry_->GetTotals().fallback_loads, 0u);
  Unload(live);
  Unload(b);
}

TEST_F(PoolRegistryTest, LoadOverTheLimitFallsBackWithAReason) {
  MakeRegistry(WithLimit(2 * kPart));
  const Loaded v1 = Load(Version("/m/a", 1), kPart);
  EXPECT_EQ(registry_->BeginLoad(Version("/m/a", 2), 2 * kPart), 0);
  EXPECT_EQ(registry_->BeginLoad(Version("/m/a", 3), 64 * kPart), 0);
  // A slot made for a load that was refused is not shown as one on standby.
  EXPECT_EQ(registry_->List().size(), 1u);
  const Totals totals = registry_->GetTotals();
  EXPECT_EQ(totals.fallback_loads, 2u);
  EXPECT_EQ(totals.fallback_bytes, 66 * kPart);
  EXPECT_EQ(totals.limit_bytes, 2 * kPart);
  EXPECT_EQ(totals.bytes_reserved, kPart);
  EXPECT_NE(totals.last_fallback_reason.find("TF_MODEL_POOL_LIMIT_MB"),
            std::string::npos)
      << totals.last_fallback_reason;
  Unload(v1);
}

TEST_F(PoolRegistryTest, LoadThatCannotFitCostsNobodyStandbyMemory) {
  MakeRegistry(WithLimit(4 * kPart));
  const Loaded v1 = Load(Version("/m/a", 1), 2 * kPart);
  const Loaded v2 = Load(Version("/m/a", 2), kPart);
  Unload(v2);
  EXPECT_EQ(registry_->BeginLoad(Version("/m/b", 1), 3 * kPart), 0);
  EXPECT_EQ(StatsOf(v2.id).bytes_reserved, kPart);
  EXPECT_EQ(registry_->GetTotals().trimmed_bytes, 0u);
  Unload(v1);
}

TEST_F(PoolRegistryTest, RefusalByTheSystemIsNotBlamedOnTheLimit) {
  MakeRegistry(WithLimit(64 * kPart));
  memory_.refuse_commits = true;
  EXPECT_EQ(registry_->BeginLoad(Version("/m/a", 1), kPart), 0);
  const std::string reason = registry_->GetTotals().last_fallback_reason;
  EXPECT_NE(reason.find("system"), std::string::npos) << reason;
  EXPECT_EQ(reason.find("LIMIT"), std::string::npos) << reason;
  memory_.refuse_commits = false;
  const Loaded again = Load(Version("/m/a", 1), kPart);
  EXPECT_NE(again.id, 0);
  Unload(again);
}

TEST_F(PoolRegistryTest, RefusedLoadLeavesTheSlotAsItWas) {
  MakeRegistry();
  const Loaded v1 = Load(Version("/m/a", 1), kPart);
  Unload(v1);
  memory_.refuse_commits = true;
  EXPECT_EQ(registry_->BeginLoad(Version("/m/a", 2), 4 * kPart), 0);
  const PoolStats stats = StatsOf(v1.id);
  EXPECT_EQ(stats.name, "a/1");
  EXPECT_EQ(stats.num_loads, 1u);
  EXPECT_EQ(stats.state, PoolState::kStandby);
  EXPECT_EQ(stats.bytes_reserved, kPart);
  EXPECT_EQ(registry_->List().size(), 1u);
}

TEST_F(PoolRegistryTest, LoadOfUnknownSizeIsGivenAPool) {
  MakeRegistry();
  const uint8_t id = registry_->BeginLoad(Version("/m/a", 1), 0);
  ASSERT_NE(id, 0);
  EXPECT_EQ(StatsOf(id).state, PoolState::kLoading);
  EXPECT_EQ(memory_.commits(), 0u);
  void* p = registry_->pool(id)->Allocate(64, 100);
  EXPECT_NE(p, nullptr);
  registry_->EndLoad(id);
  EXPECT_TRUE(registry_->pool(id)->Deallocate(p));
}

TEST_F(PoolRegistryTest, LoadWaitsForMemoryThatIsJustGivenBack) {
  // GIVEN a standby slot that takes the whole limit, in the act of being
  // trimmed by another thread
  std::atomic<bool> trimming{false};
  std::atomic<bool> go_on{false};
  memory_.on_decommit = [&] {
    trimming = true;
    Eventually([&] { return go_on.load(); });
  };
  MakeRegistry(WithLimit(2 * kPart));
  const Loaded a = Load(Version("/m/a", 1), kPart);
  const Loaded b = Load(Version("/m/b", 1), kPart);
  Unload(a);
  std::thread trimmer([&] { EXPECT_EQ(registry_->Trim(), kPart); });
  ASSERT_TRUE(Eventually([&] { return trimming.load(); }));

  // WHEN a load needs just that memory
  std::atomic<int> id{-1};
  std::thread loader(
      [&] { id = registry_->BeginLoad(Version("/m/b", 1), kPart); });
  // It has its pool before it asks for memory.
  ASSERT_TRUE(Eventually([&] {
    const auto list = registry_->List();
    return std::any_of(list.begin(), list.end(), [](const PoolStats& stats) {
      return stats.state == PoolState::kLoading;
    });
  }));
  go_on = true;
  trimmer.join();
  loader.join();
  memory_.on_decommit = nullptr;

  // THEN it is not refused
  EXPECT_GT(id, 0);
  registry_->EndLoad(static_cast<uint8_t>(id));
  Unload(b);
}

// Standby memory.

TEST_F(PoolRegistryTest, TrimGivesBackStandbySlotsAndNoOthers) {
  MakeRegistry();
  const Loaded v1 = Load(Version("/m/a", 1), 2 * kPart);
  const Loaded v2 = Load(Version("/m/a", 2), kPart);
  EXPECT_EQ(registry_->Trim(), 0u);
  Unload(v1);
  EXPECT_EQ(registry_->Trim(), 2 * kPart);
  EXPECT_EQ(registry_->Trim(), 0u);
  EXPECT_EQ(memory_.committed_bytes(), kPart);
  EXPECT_EQ(registry_->GetTotals().trimmed_bytes, 2 * kPart);
  const Loaded v3 = Load(Version("/m/a", 3), 2 * kPart);
  EXPECT_EQ(v3.id, v1.id);
  EXPECT_EQ(v3.tensor, v1.tensor);
  Unload(v2);
  Unload(v3);
}

TEST_F(PoolRegistryTest, FallbackBytesKeepASlotFromReuse) {
  MakeRegistry();
  const Loaded v1 = Load(Version("/m/a", 1), kPart);
  registry_->pool(v1.id)->AddFallback(100);
  registry_->CountFallbackBytes(v1.id, 100);
  Unload(v1);
  EXPECT_EQ(StatsOf(v1.id).fallback_bytes, 100u);
  const Loaded v2 = Load(Version("/m/a", 2), kPart);
  EXPECT_NE(v2.id, v1.id);
  registry_->pool(v1.id)->RemoveFallback(100);
  EXPECT_EQ(StatsOf(v1.id).state, PoolState::kStandby);
  EXPECT_EQ(StatsOf(v1.id).fallback_bytes, 0u);
  EXPECT_EQ(registry_->GetTotals().fallback_bytes, 100u);
  Unload(v2);
}

TEST_F(PoolRegistryTest, StandbyIsKeptForEverByDefault) {
  MakeRegistry();
  Unload(Load(Version("/m/a", 1), kPart));
  clock_.AdvanceSeconds(1000000);
  EXPECT_EQ(registry_->TrimExpired(), 0u);
  EXPECT_EQ(memory_.committed_bytes(), kPart);
}

TEST_F(PoolRegistryTest, RetentionEndsAfterItsSeconds) {
  MakeRegistry(WithRetain(Settings::Retain::kSeconds, 3600));
  const Loaded v1 = Load(Version("/m/a", 1), kPart);
  const Loaded v2 = Load(Version("/m/a", 2), 2 * kPart);
  clock_.AdvanceSeconds(5000);
  EXPECT_EQ(registry_->TrimExpired(), 0u);  // both are live
  Unload(v1);
  clock_.AdvanceSeconds(3599);
  registry_->TrimExpired();
  EXPECT_EQ(memory_.committed_bytes(), 3 * kPart);
  Unload(v2);
  clock_.AdvanceSeconds(1);
  // The registry's own thread may be first.
  registry_->TrimExpired();
  EXPECT_EQ(StatsOf(v1.id).bytes_reserved, 0u);
  EXPECT_EQ(StatsOf(v2.id).bytes_reserved, 2 * kPart);
  EXPECT_EQ(registry_->GetTotals().trimmed_bytes, kPart);
}

TEST_F(PoolRegistryTest, ReuseStartsTheRetentionOver) {
  MakeRegistry(WithRetain(Settings::Retain::kSeconds, 3600));
  const Loaded v1 = Load(Version("/m/a", 1), kPart);
  Unload(v1);
  clock_.AdvanceSeconds(3000);
  Unload(Load(Version("/m/a", 2), kPart));
  clock_.AdvanceSeconds(3000);
  registry_->TrimExpired();
  EXPECT_EQ(StatsOf(v1.id).bytes_reserved, kPart);
}

TEST_F(PoolRegistryTest, ReleaseGivesMemoryBackByItself) {
  MakeRegistry(WithRetain(Settings::Retain::kRelease));
  for (int version = 1; version <= 20; ++version) {
    const Loaded loaded = Load(Version("/m/a", version), kPart);
    ASSERT_NE(loaded.id, 0);
    EXPECT_EQ(StatsOf(loaded.id).bytes_in_use, kPart);
    Unload(loaded);
    if (version % 2 == 0) {
      ASSERT_TRUE(Eventually([&] { return memory_.committed_bytes() == 0; }));
    }
  }
  EXPECT_TRUE(Eventually(
      [&] { return registry_->GetTotals().trimmed_bytes >= 10 * kPart; }));
}

// In the tests with it, a release that nobody hurries would never end.
constexpr std::chrono::hours kForGood{1};

TEST_F(PoolRegistryTest, LoadIntoASlotEndsItsReleaseAndKeepsTheRest) {
  // GIVEN a slot that is being released, with a long pause after a slice
  release_pause_ = kForGood;
  MakeRegistry(WithRetain(Settings::Retain::kRelease));
  const Loaded v1 = Load(Version("/m/a", 1), 8 * kPart);
  Unload(v1);
  ASSERT_TRUE(Eventually([&] { return memory_.discards().size() == 1; }));
  // WHEN the next version comes
  const Loaded v2 = Load(Version("/m/a", 2), 8 * kPart);
  // THEN it takes the slot, with what is left of it
  EXPECT_EQ(v2.id, v1.id);
  EXPECT_EQ(v2.tensor, v1.tensor);
  EXPECT_EQ(memory_.discards().size(), 1u);
  EXPECT_EQ(StatsOf(v2.id).bytes_reserved, 8 * kPart);
  EXPECT_TRUE(Eventually(
      [&] { return registry_->GetTotals().trimmed_bytes == 2 * kPart; }));
  EXPECT_EQ(registry_->GetTotals().fallback_loads, 0u);
}

TEST_F(PoolRegistryTest, LoadShortOfMemoryTakesARunningReleaseOver) {
  // GIVEN a slot that is being given back, of a model that is alive
  release_pause_ = kForGood;
  Settings settings = WithRetain(Settings::Retain::kRelease);
  settings.limit_bytes = 8 * kPart;
  const std::thread::id here = std::this_thread::get_id();
  std::atomic<int> discards_here{0};
  memory_.on_discard = [&] {
    if (std::this_thread::get_id() == here) ++discards_here;
  };
  MakeRegistry(settings);
  const Loaded alive = Load(Version("/m/a", 1), kPart);
  const Loaded gone = Load(Version("/m/a", 2), 7 * kPart);
  Unload(gone);
  ASSERT_TRUE(Eventually([&] { return memory_.discards().size() == 1; }));
  // WHEN another model, which cannot have the slot, needs the memory
  const Loaded other = Load(Version("/m/b", 1), 7 * kPart);
  // THEN it gets it, by its own doing
  EXPECT_NE(other.id, 0);
  EXPECT_NE(other.id, gone.id);
  EXPECT_EQ(discards_here, 3);
  Unload(alive);
}

TEST_F(PoolRegistryTest, PausedReleaseEndsWithTheRegistry) {
  release_pause_ = kForGood;
  MakeRegistry(WithRetain(Settings::Retain::kRelease));
  Unload(Load(Version("/m/a", 1), 8 * kPart));
  ASSERT_TRUE(Eventually([&] { return memory_.discards().size() == 1; }));
  registry_.reset();
  EXPECT_EQ(memory_.committed_bytes(), 0u);
}

TEST_F(PoolRegistryTest, ReleaseRunsOnAThreadOfItsOwnAtLoadPriority) {
  std::atomic<int> nice{0};
  std::atomic<bool> on_this_thread{false};
  const std::thread::id here = std::this_thread::get_id();
  memory_.on_discard = [&] {
    nice = getpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)));
    on_this_thread = std::this_thread::get_id() == here;
  };
  MakeRegistry(WithRetain(Settings::Retain::kRelease));
  Unload(Load(Version("/m/a", 1), 4 * kPart));
  ASSERT_TRUE(Eventually([&] { return memory_.committed_bytes() == 0; }));
  registry_.reset();
  EXPECT_EQ(nice, 10);
  EXPECT_FALSE(on_this_thread);
}

// Memory ahead of need. Where the registry's thread might be first, tests wait.

Settings WithPrepare(size_t limit = 0) {
  Settings settings = WithLimit(limit);
  settings.prepare = true;
  return settings;
}

TEST_F(PoolRegistryTest, FirstUpdateFindsPreparedMemory) {
  MakeRegistry(WithPrepare());
  const Loaded v1 = Load(Version("/m/a", 1), 3 * kPart);
  ASSERT_TRUE(Eventually(
      [&] { return registry_->GetTotals().prepared_bytes == 3 * kPart; }));
  // It is listed, as the model's.
  const std::vector<PoolStats> list = registry_->List();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[1].name, "a");
  EXPECT_EQ(list[1].slot, 'B');
  EXPECT_EQ(list[1].state, PoolState::kStandby);
  EXPECT_EQ(list[1].bytes_reserved, 3 * kPart);
  const size_t commits = memory_.commits();
  const Loaded v2 = Load(Version("/m/a", 2), 3 * kPart);
  EXPECT_EQ(v2.id, list[1].id);
  EXPECT_EQ(StatsOf(v2.id).name, "a/2");
  EXPECT_EQ(memory_.commits(), commits);
  EXPECT_EQ(registry_->GetTotals().loads_into_reused_memory, 1u);
  Unload(v1);
  Unload(v2);
}

TEST_F(PoolRegistryTest, OneVersionAliveHasOneSlotPrepared) {
  MakeRegistry();
  EXPECT_EQ(registry_->Prepare(), 0u);  // no model
  const Loaded v1 = Load(Version("/m/a", 1), kPart);
  EXPECT_EQ(registry_->Prepare(), kPart);
  EXPECT_EQ(registry_->Prepare(), 0u);  // is there
  const Loaded v2 = Load(Version("/m/a", 2), 2 * kPart);
  EXPECT_EQ(registry_->Prepare(), 0u);  // an update is on its way
  EXPECT_EQ(registry_->List().size(), 2u);
  Unload(v1);
  // The slot that the update left is extended to the new version's size.
  EXPECT_EQ(registry_->Prepare(), kPart);
  EXPECT_EQ(StatsOf(v1.id).bytes_reserved, 2 * kPart);
  Unload(v2);
  EXPECT_EQ(registry_->Prepare(), 0u);  // nothing is alive
  EXPECT_EQ(registry_->GetTotals().prepared_bytes, 2 * kPart);
}

TEST_F(PoolRegistryTest, NothingIsPreparedWhereNoUpdateCouldUseIt) {
  Settings settings;
  settings.slots = 1;
  MakeRegistry(settings);
  const Loaded v1 = Load(Version("/m/a", 1), kPart);
  EXPECT_EQ(registry_->Prepare(), 0u);
  const Loaded unversioned = Load({"/m/ranker", ""}, kPart);
  EXPECT_EQ(registry_->Prepare(), 0u);
  EXPECT_EQ(registry_->List().size(), 2u);
  Unload(v1);
  Unload(unversioned);
}

TEST_F(PoolRegistryTest, PreparationTakesNobodysMemory) {
  // GIVEN a standby slot of another model that is alive
  MakeRegistry(WithLimit(6 * kPart));
  const Loaded b1 = Load(Version("/m/b", 1), kPart);
  const Loaded b2 = Load(Version("/m/b", 2), kPart);
  Unload(b1);
  // WHEN the limit has no room for a second version of a model
  const Loaded a1 = Load(Version("/m/a", 1), 3 * kPart);
  EXPECT_EQ(registry_->Prepare(), 0u);
  // THEN the other's memory stays, nothing is listed, and an update, which may
  // take it, is not refused for what could not be prepared
  EXPECT_EQ(StatsOf(b1.id).bytes_reserved, kPart);
  EXPECT_EQ(registry_->List().size(), 3u);
  const Loaded a2 = Load(Version("/m/a", 2), 2 * kPart);
  EXPECT_NE(a2.id, 0);
  Unload(a1);
  Unload(a2);
  Unload(b2);
}

TEST_F(PoolRegistryTest, PreparedMemoryMakesRoomForALoad) {
  MakeRegistry(WithLimit(4 * kPart));
  const Loaded a1 = Load(Version("/m/a", 1), 2 * kPart);
  EXPECT_EQ(registry_->Prepare(), 2 * kPart);
  const Loaded b1 = Load(Version("/m/b", 1), 2 * kPart);
  EXPECT_NE(b1.id, 0);
  EXPECT_EQ(registry_->GetTotals().fallback_loads, 0u);
  Unload(a1);
  Unload(b1);
}

TEST_F(PoolRegistryTest, MemoryOfARefusedLoadIsReleasedToo) {
  MakeRegistry(WithRetain(Settings::Retain::kRelease));
  const uint8_t id = registry_->BeginLoad(Version("/m/a", 1), kPart);
  ASSERT_NE(id, 0);
  registry_->EndLoad(id);  // a corrupt checkpoint: no tensor came
  EXPECT_TRUE(Eventually([&] { return memory_.committed_bytes() == 0; }));
}

TEST_F(PoolRegistryTest, RetentionThreadEndsWithTheRegistry) {
  MakeRegistry(WithRetain(Settings::Retain::kSeconds, 3600));
  Unload(Load(Version("/m/a", 1), kPart));
  registry_.reset();
  EXPECT_EQ(memory_.committed_bytes(), 0u);
}

// Threads.

class ConcurrentSwapsTest : public PoolRegistryTest,
                            public ::testing::WithParamInterface<Settings> {};

TEST_P(ConcurrentSwapsTest, LoseNoMemoryAndMixNoVersions) {
  MakeRegistry(GetParam());
  constexpr int kThreads = 4;
  std::atomic<int> running{kThreads};
  std::atomic<size_t> fallbacks{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      // Two threads update one model, the others one each.
      const std::string dir = "/m/model" + std::to_string(t / 2 * t);
      for (int round = 0; round < 40; ++round) {
        const ModelIdentity identity = Version(dir, round * kThreads + t);
        const size_t tensors = 3 + (round * 5 + t) % 7;
        const size_t size = 200000;
        const size_t sum = tensors * RoundUp(size, kChunkGranularity);
        const uint8_t id = registry_->BeginLoad(identity, sum);
        if (id == 0) {
          ++fallbacks;
          continue;
        }
        ModelPool* pool = registry_->pool(id);
        std::vector<char*> mine;
        for (size_t i = 0; i < tensors; ++i) {
          char* p = static_cast<char*>(pool->Allocate(64, size));
          ASSERT_NE(p, nullptr);
          p[0] = p[size - 1] = static_cast<char>(id);
          mine.push_back(p);
        }
        registry_->EndLoad(id);
        EXPECT_EQ(registry_->PoolOf(mine[0]), identity.Name());
        EXPECT_EQ(registry_->NameOf(id), identity.Name());
        for (char* p : mine) {
          EXPECT_EQ(p[0], static_cast<char>(id));
          EXPECT_EQ(p[size - 1], static_cast<char>(id));
          EXPECT_TRUE(pool->Deallocate(p));
        }
      }
      --running;
    });
  }
  while (running > 0) {
    for (const PoolStats& stats : registry_->List()) {
      EXPECT_LE(stats.bytes_in_use, stats.bytes_reserved);
      EXPECT_LE(stats.bytes_in_use, stats.peak_bytes_in_use);
      EXPECT_LE(stats.largest_free_block,
                stats.bytes_reserved - stats.bytes_in_use);
      EXPECT_EQ(stats.num_tensors == 0, stats.bytes_in_use == 0);
      EXPECT_LE(stats.slot, 'D');
    }
    registry_->GetTotals();
    if (GetParam().retain == Settings::Retain::kStandby) registry_->Trim();
    std::this_thread::yield();
  }
  for (std::thread& thread : threads) thread.join();

  EXPECT_EQ(registry_->GetTotals().bytes_in_use, 0u);
  EXPECT_EQ(registry_->GetTotals().fallback_loads, fallbacks);
  if (GetParam().limit_bytes == 0) {
    EXPECT_EQ(fallbacks, 0u);
  }
  for (const PoolStats& stats : registry_->List()) {
    EXPECT_EQ(stats.state, PoolState::kStandby);
    EXPECT_EQ(stats.num_tensors, 0u);
  }
  EXPECT_TRUE(Eventually([&] {
    registry_->Trim();
    return memory_.committed_bytes() == 0;
  }));
  EXPECT_EQ(registry_->GetTotals().bytes_reserved, 0u);
  // What is counted as taken is 0 again: all of the limit can be had.
  if (GetParam().limit_bytes > 0) {
    const Loaded all = Load(Version("/m/last", 1), GetParam().limit_bytes);
    EXPECT_NE(all.id, 0);
    Unload(all);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, ConcurrentSwapsTest,
    ::testing::Values(Settings(), WithRetain(Settings::Retain::kRelease),
                      WithLimit(3 * kPart), WithPrepare(),
                      WithPrepare(3 * kPart)),
    [](const ::testing::TestParamInfo<Settings>& info) {
      if (info.param.prepare) {
        return info.param.limit_bytes > 0 ? "PrepareLimit" : "Prepare";
      }
      if (info.param.limit_bytes > 0) return "Limit";
      return info.param.retain == Settings::Retain::kRelease ? "Release"
                                                             : "Standby";
    });

}  // namespace
}  // namespace tf_model_pool
