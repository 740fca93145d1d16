// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/pool_registry.h"

#include <dirent.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
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

// Waits for another thread; false if it takes absurdly long.
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

  void MakeRegistry(const PoolPolicy& policy = PoolPolicy(),
                    size_t address_space = 32 * kMiB) {
    PoolRegistry::Options options;
    options.policy = policy;
    options.memory = &memory_;
    options.address_space_per_pool = address_space;
    options.now_ns = clock_.AsFunction();
    options.release_pause = release_pause_;
    options.has_keeper = has_keeper_;
    options.headroom = [this] { return MemoryHeadroom{headroom_, limited_}; };
    options.log = [this](const std::string& line) {
      std::lock_guard<std::mutex> lock(log_mu_);
      log_.push_back(line);
    };
    options.log_info = [this](const std::string& line) {
      std::lock_guard<std::mutex> lock(log_mu_);
      info_.push_back(line);
    };
    options.on_new_pool = [this](uint8_t id, ModelPool* pool) {
      new_pools_.push_back({id, pool});
    };
    registry_ = std::make_unique<PoolRegistry>(options);
  }

  Loaded Load(const ModelIdentity& identity, size_t bytes) {
    return Load(PoolRegistry::Load{identity, bytes, 0, {}});
  }

  Loaded Load(const PoolRegistry::Load& load) {
    Loaded loaded;
    loaded.id = registry_->BeginLoad(load);
    if (loaded.id == 0) return loaded;
    loaded.tensor =
        registry_->pool(loaded.id)->Allocate(64, load.bytes.value_or(0));
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
  bool has_keeper_ = false;  // set before the registry is made
  std::atomic<uint64_t> headroom_{std::numeric_limits<uint64_t>::max()};
  std::atomic<bool> limited_{false};
  std::mutex log_mu_;
  std::vector<std::string> log_;
  std::vector<std::string> info_;
  std::vector<std::pair<uint8_t, ModelPool*>> new_pools_;
  std::unique_ptr<PoolRegistry> registry_;
};

PoolPolicy WithLimit(size_t bytes) {
  PoolPolicy policy;
  policy.limit_bytes = bytes;
  return policy;
}

PoolPolicy WithRetain(PoolPolicy::Retain retain, int64_t seconds = 0) {
  PoolPolicy policy;
  policy.retain = retain;
  policy.retain_seconds = seconds;
  return policy;
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

// Restores of one version.

using Keys = std::vector<uint64_t>;

TEST_F(PoolRegistryTest, RestoresOfOneLoadGoToOnePool) {
  MakeRegistry();
  const Loaded a = Load({Version("/m/ctr", 1), kPart, 0, {1, 2}});
  const Loaded b = Load({Version("/m/ctr", 1), kPart, 0, {3}});
  EXPECT_EQ(b.id, a.id);
  Unload(a);
  const Loaded c = Load({Version("/m/ctr", 1), kPart, 0, {4}});
  EXPECT_EQ(c.id, a.id);
  Unload(b);
  Unload(c);
}

TEST_F(PoolRegistryTest, PathLoadedAgainInPlaceGetsAPoolOfItsOwn) {
  // GIVEN a version that is restored in two parts
  MakeRegistry();
  const Loaded a1 = Load({Version("/m/ctr", 1), kPart, 0, {1}});
  const Loaded a2 = Load({Version("/m/ctr", 1), kPart, 0, {2}});
  // WHEN the same path is loaded again
  const Loaded b1 = Load({Version("/m/ctr", 1), kPart, 0, {1}});
  const Loaded b2 = Load({Version("/m/ctr", 1), kPart, 0, {2}});
  // THEN the second load has its pool, and another letter
  EXPECT_EQ(a2.id, a1.id);
  EXPECT_NE(b1.id, a1.id);
  EXPECT_EQ(b2.id, b1.id);
  EXPECT_EQ(StatsOf(a1.id).slot, 'A');
  EXPECT_EQ(StatsOf(b1.id).slot, 'B');
  // THEN the first one's is idle when it has gone, for the third
  Unload(a1);
  Unload(a2);
  EXPECT_EQ(StatsOf(a1.id).state, PoolState::kStandby);
  const Loaded c1 = Load({Version("/m/ctr", 1), kPart, 0, {1}});
  EXPECT_EQ(c1.id, a1.id);
  const Loaded c2 = Load({Version("/m/ctr", 1), kPart, 0, {2}});
  EXPECT_EQ(c2.id, a1.id);
  EXPECT_EQ(memory_.committed_bytes(), 4 * kPart);
  for (const Loaded& loaded : {b1, b2, c1, c2}) Unload(loaded);
}

TEST_F(PoolRegistryTest, SessionsOfOnePathShareNoPool) {
  MakeRegistry();
  // Their restores, then constants, which have no key.
  const Loaded a = Load({Version("/m/ctr", 1), kPart, /*device=*/7, {1}});
  const Loaded b = Load({Version("/m/ctr", 1), kPart, /*device=*/8, {1}});
  EXPECT_NE(a.id, b.id);
  const Loaded of_b = Load({Version("/m/ctr", 1), 64, /*device=*/8});
  const Loaded of_a = Load({Version("/m/ctr", 1), 64, /*device=*/7});
  EXPECT_EQ(of_a.id, a.id);
  EXPECT_EQ(of_b.id, b.id);
  // A session that has restored nothing joins nobody.
  const Loaded of_c = Load({Version("/m/ctr", 1), 64, /*device=*/9});
  EXPECT_NE(of_c.id, a.id);
  EXPECT_NE(of_c.id, b.id);
  for (const Loaded& loaded : {a, b, of_a, of_b, of_c}) Unload(loaded);
}

TEST_F(PoolRegistryTest, ConstantDoesNotFollowARangeToAnotherLoad) {
  MakeRegistry();
  const Loaded a = Load({Version("/m/ctr", 1), kPart, /*device=*/7});
  Unload(a);
  const Loaded b = Load({Version("/m/ctr", 1), kPart, /*device=*/8});
  EXPECT_EQ(b.id, a.id);
  const Loaded late = Load({Version("/m/ctr", 1), 64, /*device=*/7});
  EXPECT_NE(late.id, b.id);
  Unload(b);
  Unload(late);
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
  EXPECT_EQ(registry_->BeginLoad({Version("/m/ctr", 1), 3 * kPart}), 0);
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
  // If none is large enough, the largest has to grow least.
  const Loaded huge = Load(Version("/m/ctr", 5), 8 * kPart);
  EXPECT_EQ(huge.id, large.id);
  Unload(next);
  Unload(huge);
}

TEST_F(PoolRegistryTest, ExhaustedSlotsAreAFallbackWithAReason) {
  PoolPolicy policy;
  policy.slots = 2;
  MakeRegistry(policy);
  const Loaded v1 = Load(Version("/m/ctr", 1), kPart);
  const Loaded v2 = Load(Version("/m/ctr", 2), kPart);
  EXPECT_EQ(registry_->BeginLoad({Version("/m/ctr", 3), kPart}), 0);
  // So does the same version, if it is loaded once more.
  EXPECT_EQ(registry_->BeginLoad({Version("/m/ctr", 2), kPart, 5}), 0);
  const Totals totals = registry_->GetTotals();
  EXPECT_EQ(totals.fallback_loads, 2u);
  EXPECT_NE(totals.last_fallback_reason.find("TF_MODEL_POOL_SLOTS"),
            std::string::npos);
  ASSERT_EQ(LoggedLines(), 2u);
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
  PoolPolicy policy;
  policy.slots = 1;
  MakeRegistry(policy);
  const Loaded v1 = Load(Version("/m/ctr", 1), kPart);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(registry_->BeginLoad({Version("/m/ctr", 2), kPart}), 0);
    EXPECT_EQ(registry_->BeginLoad({Version("/m/ctr", 3), kPart}), 0);
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

TEST_F(PoolRegistryTest, StandbyRangeGoesToWhicheverModelItFits) {
  MakeRegistry();
  const Loaded a1 = Load(Version("/m/a", 1), kPart);
  const Loaded a2 = Load(Version("/m/a", 2), kPart);
  Unload(a1);
  const Loaded b = Load(Version("/m/b", 1), kPart);
  EXPECT_EQ(b.id, a1.id);
  EXPECT_EQ(StatsOf(b.id).name, "b/1");
  EXPECT_EQ(StatsOf(b.id).slot, 'A');
  EXPECT_EQ(memory_.commits(), 2u);
  // The model has the other slot, and its next version the first again.
  const Loaded a3 = Load(Version("/m/a", 3), kPart);
  EXPECT_EQ(StatsOf(a2.id).slot, 'B');
  EXPECT_EQ(StatsOf(a3.id).slot, 'A');
  Unload(a2);
  Unload(a3);
  Unload(b);
}

TEST_F(PoolRegistryTest, OfEqualRangesTheModelTakesItsOwn) {
  MakeRegistry();
  const Loaded a = Load(Version("/m/a", 1), kPart);
  const Loaded b = Load(Version("/m/b", 1), kPart);
  Unload(a);
  Unload(b);
  const Loaded b2 = Load(Version("/m/b", 2), kPart);
  EXPECT_EQ(b2.id, b.id);
  Unload(b2);
}

TEST_F(PoolRegistryTest, SmallVersionDoesNotSitInAHugeRange) {
  MakeRegistry(PoolPolicy(), /*address_space=*/128 * kMiB);
  Unload(Load(Version("/m/large", 1), 67 * kMiB));
  const Loaded small = Load(Version("/m/small", 1), kPart);
  EXPECT_EQ(StatsOf(small.id).bytes_reserved, kPart);
  const Loaded large = Load(Version("/m/large", 2), 66 * kMiB);
  EXPECT_NE(large.id, small.id);
  EXPECT_EQ(memory_.committed_bytes(), 68 * kMiB + kPart);
  Unload(small);
  Unload(large);
  // Twice as large is not too large.
  const Loaded half = Load(Version("/m/half", 1), 34 * kMiB);
  EXPECT_EQ(half.id, large.id);
  Unload(half);
}

TEST_F(PoolRegistryTest, SmallRangeIsNotGrownToMoreThanTwiceItsSize) {
  MakeRegistry();
  const Loaded a = Load(Version("/m/a", 1), 2 * kPart);
  Unload(a);
  const Loaded b = Load(Version("/m/b", 1), 5 * kPart);
  EXPECT_NE(b.id, a.id);
  EXPECT_EQ(StatsOf(a.id).bytes_reserved, 2 * kPart);
  const Loaded c = Load(Version("/m/c", 1), 4 * kPart);
  EXPECT_EQ(c.id, a.id);
  EXPECT_EQ(StatsOf(c.id).bytes_reserved, 4 * kPart);
  EXPECT_EQ(StatsOf(c.id).num_regions, 1u);
  Unload(b);
  Unload(c);
}

TEST_F(PoolRegistryTest, EmptyRangeIsFilledBeforeOneIsMade) {
  MakeRegistry();
  const Loaded a = Load(Version("/m/a", 1), kPart);
  Unload(a);
  registry_->Trim();
  const Loaded b = Load(Version("/m/b", 1), 6 * kPart);
  EXPECT_EQ(b.id, a.id);
  Unload(b);
}

TEST_F(PoolRegistryTest, AnyRangeWillDoIfNoOtherCanBeMade) {
  MakeRegistry();
  const Loaded a = Load(Version("/m/a", 1), kPart);
  const Loaded b = Load(Version("/m/b", 1), 2 * kPart);
  Unload(a);
  Unload(b);
  memory_.max_reserve = 0;
  const Loaded c = Load(Version("/m/c", 1), 6 * kPart);
  EXPECT_EQ(c.id, b.id);
  EXPECT_EQ(registry_->GetTotals().fallback_loads, 0u);
  EXPECT_EQ(LoggedLines(), 0u);
  // A range that could not be made is not shown on standby.
  EXPECT_EQ(registry_->List().size(), 2u);
  Unload(c);
}

TEST_F(PoolRegistryTest, LoadOfUnknownSizeTakesWhatItsModelLeft) {
  MakeRegistry();
  const Loaded a = Load(Version("/m/a", 1), kPart);
  const Loaded b = Load(Version("/m/b", 1), 3 * kPart);
  const Loaded c = Load(Version("/m/c", 1), 2 * kPart);
  Unload(a);
  Unload(b);
  Unload(c);
  const uint8_t own = registry_->BeginLoad({Version("/m/a", 2)});
  EXPECT_EQ(own, a.id);
  // A model that left nothing takes the largest.
  const uint8_t other = registry_->BeginLoad({Version("/m/d", 1)});
  EXPECT_EQ(other, b.id);
  registry_->EndLoad(own);
  registry_->EndLoad(other);
}

TEST_F(PoolRegistryTest, TenModelsUpdatedInTurnNeedOneSpareRange) {
  MakeRegistry();
  std::vector<Loaded> models;
  for (int i = 0; i < 10; ++i) {
    models.push_back(Load(Version("/m/model" + std::to_string(i), 1), kPart));
  }
  for (int version = 2; version <= 3; ++version) {
    for (int i = 0; i < 10; ++i) {
      const Loaded next =
          Load(Version("/m/model" + std::to_string(i), version), kPart);
      Unload(models[i]);
      models[i] = next;
    }
  }
  EXPECT_EQ(memory_.committed_bytes(), 11 * kPart);
  EXPECT_EQ(memory_.commits(), 11u);
  for (const Loaded& model : models) Unload(model);
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
  MakeRegistry(PoolPolicy(), /*address_space=*/kPart);
  std::vector<Loaded> all;
  for (int i = 0; i < PoolRegistry::kMaxPools; ++i) {
    all.push_back(Load(Version("/m/model" + std::to_string(i), 1), 64));
    ASSERT_EQ(all.back().id, i + 1);
  }
  EXPECT_EQ(registry_->BeginLoad({Version("/m/one_more", 1), 64}), 0);
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

TEST_F(PoolRegistryTest, FirstLoadThatGetsAPoolIsLogged) {
  MakeRegistry(WithLimit(2 * kPart));
  EXPECT_EQ(registry_->BeginLoad({Version("/m/ctr", 1), 3 * kPart}), 0);
  EXPECT_TRUE(info_.empty());
  Unload(Load(Version("/m/ctr", 2), kPart));
  Unload(Load(Version("/m/ctr", 3), kPart));
  ASSERT_EQ(info_.size(), 1u);
  for (const char* part : {"ctr/2", "/m/ctr", "slot A", "2097152 bytes"}) {
    EXPECT_NE(info_[0].find(part), std::string::npos) << info_[0];
  }
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
  MakeRegistry(WithLimit(5 * kPart));
  const Loaded live = Load(Version("/m/a", 1), kPart);
  const Loaded a2 = Load(Version("/m/a", 2), kPart);
  const Loaded a3 = Load(Version("/m/a", 3), kPart);
  clock_.AdvanceSeconds(1);
  Unload(a3);
  clock_.AdvanceSeconds(1);
  Unload(a2);
  const Loaded b = Load(Version("/m/b", 1), 3 * kPart);
  ASSERT_NE(b.id, 0);
  EXPECT_EQ(StatsOf(a3.id).bytes_reserved, 0u);
  EXPECT_EQ(StatsOf(a2.id).bytes_reserved, kPart);
  EXPECT_EQ(StatsOf(live.id).bytes_in_use, kPart);
  EXPECT_EQ(registry_->GetTotals().trimmed_bytes, kPart);
  EXPECT_EQ(registry_->GetTotals().bytes_reserved, 5 * kPart);
  EXPECT_EQ(registry_->GetTotals().fallback_loads, 0u);
  Unload(live);
  Unload(b);
}

TEST_F(PoolRegistryTest, LimitTakesNoMoreThanTheLoadNeeds) {
  MakeRegistry(WithLimit(74 * kMiB), /*address_space=*/128 * kMiB);
  const Loaded large = Load(Version("/m/a", 1), 72 * kMiB);
  Unload(large);
  const Loaded small = Load(Version("/m/b", 1), 2 * kPart);
  EXPECT_NE(small.id, large.id);
  EXPECT_EQ(StatsOf(large.id).bytes_reserved, 68 * kMiB);
  Unload(small);
}

TEST_F(PoolRegistryTest, StandbyMemoryGoesBeforeTheSystemRunsOut) {
  // GIVEN 6 parts on standby, and room for 3 more in the process's group
  MakeRegistry();
  const Loaded a1 = Load(Version("/m/a", 1), 2 * kPart);
  const Loaded a2 = Load(Version("/m/a", 2), 4 * kPart);
  const Loaded live = Load(Version("/m/a", 3), kPart);
  Unload(a1);
  clock_.AdvanceSeconds(1);
  Unload(a2);
  headroom_ = 3 * kPart;
  memory_.on_discard = [this] { headroom_ += 2 * kPart; };
  // WHEN a load needs more than that
  const Loaded b = Load(Version("/m/b", 1), 9 * kPart);
  // THEN it has it, and no more than the difference has been given back
  EXPECT_NE(b.id, 0);
  EXPECT_EQ(StatsOf(a1.id).bytes_reserved, 0u);
  EXPECT_EQ(StatsOf(a2.id).bytes_reserved, 0u);
  EXPECT_EQ(registry_->GetTotals().trimmed_bytes, 6 * kPart);
  EXPECT_EQ(registry_->GetTotals().fallback_loads, 0u);
  memory_.on_discard = nullptr;
  Unload(live);
  Unload(b);
}

TEST_F(PoolRegistryTest, StandbyMemoryStaysWhileThereIsRoom) {
  MakeRegistry();
  const Loaded a = Load(Version("/m/a", 1), kPart);
  Unload(a);
  headroom_ = 3 * kPart;
  const Loaded b = Load(Version("/m/b", 1), 3 * kPart);
  EXPECT_EQ(StatsOf(a.id).bytes_reserved, kPart);
  Unload(b);
}

TEST_F(PoolRegistryTest, LoadThatNothingMakesRoomForIsTriedAllTheSame) {
  MakeRegistry();
  headroom_ = 0;
  const Loaded a = Load(Version("/m/a", 1), kPart);
  EXPECT_NE(a.id, 0);
  EXPECT_EQ(registry_->GetTotals().fallback_loads, 0u);
  Unload(a);
}

TEST_F(PoolRegistryTest, LoadOverTheLimitFallsBackWithAReason) {
  MakeRegistry(WithLimit(2 * kPart));
  const Loaded v1 = Load(Version("/m/a", 1), kPart);
  EXPECT_EQ(registry_->BeginLoad({Version("/m/a", 2), 2 * kPart}), 0);
  EXPECT_EQ(registry_->BeginLoad({Version("/m/a", 3), 64 * kPart}), 0);
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
  EXPECT_EQ(registry_->BeginLoad({Version("/m/b", 1), 3 * kPart}), 0);
  EXPECT_EQ(StatsOf(v2.id).bytes_reserved, kPart);
  EXPECT_EQ(registry_->GetTotals().trimmed_bytes, 0u);
  Unload(v1);
}

TEST_F(PoolRegistryTest, RefusalByTheSystemIsNotBlamedOnTheLimit) {
  MakeRegistry(WithLimit(64 * kPart));
  memory_.refuse_commits = true;
  EXPECT_EQ(registry_->BeginLoad({Version("/m/a", 1), kPart}), 0);
  const std::string reason = registry_->GetTotals().last_fallback_reason;
  EXPECT_NE(reason.find("system"), std::string::npos) << reason;
  EXPECT_EQ(reason.find("LIMIT"), std::string::npos) << reason;
  memory_.refuse_commits = false;
  const Loaded again = Load(Version("/m/a", 1), kPart);
  EXPECT_NE(again.id, 0);
  Unload(again);
}

TEST_F(PoolRegistryTest, SystemThatRefusesIsGivenStandbyMemoryFirst) {
  // GIVEN a system that has no more to give than it has given
  MakeRegistry();
  const Loaded a1 = Load(Version("/m/a", 1), kPart);
  const Loaded a2 = Load(Version("/m/a", 2), 2 * kPart);
  Unload(a1);
  memory_.refuse_commits = true;
  memory_.on_decommit = [this] { memory_.refuse_commits = false; };
  // WHEN a load needs what is on standby
  const Loaded b = Load(Version("/m/b", 1), 3 * kPart);
  // THEN it gets it
  EXPECT_NE(b.id, 0);
  EXPECT_EQ(StatsOf(a1.id).bytes_reserved, 0u);
  EXPECT_EQ(StatsOf(a2.id).bytes_reserved, 2 * kPart);
  memory_.on_decommit = nullptr;
  Unload(a2);
  Unload(b);
}

TEST_F(PoolRegistryTest, ScarceAddressSpaceGoesToVersionsAndNotToRanges) {
  // GIVEN room for what two versions take, and little more
  memory_.scarce = true;
  memory_.address_space = 7 * kPart;
  MakeRegistry();
  // WHEN a model is updated
  const Loaded a1 = Load(Version("/m/a", 1), 3 * kPart);
  const Loaded a2 = Load(Version("/m/a", 2), 3 * kPart);
  // THEN the rest is there for others
  ASSERT_NE(a2.id, 0);
  EXPECT_EQ(memory_.reserved_bytes(), 6 * kPart);
  // WHEN a load needs more than that
  Unload(a1);
  Unload(a2);
  const Loaded b = Load(Version("/m/b", 1), 7 * kPart);
  // THEN what is on standby makes room
  ASSERT_NE(b.id, 0);
  Unload(b);
}

TEST_F(PoolRegistryTest, LoadOfUnknownSizeIsGivenAPool) {
  MakeRegistry();
  const uint8_t id = registry_->BeginLoad({Version("/m/a", 1)});
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
      [&] { id = registry_->BeginLoad({Version("/m/b", 1), kPart}); });
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
  EXPECT_EQ(registry_->Tidy(), -1);
  EXPECT_EQ(memory_.committed_bytes(), kPart);
}

TEST_F(PoolRegistryTest, NoMoreIsKeptThanTheLargestVersionAliveNeeds) {
  MakeRegistry();
  const Loaded a1 = Load(Version("/m/a", 1), 6 * kPart);
  const Loaded a2 = Load(Version("/m/a", 2), 5 * kPart);
  const Loaded b1 = Load(Version("/m/b", 1), 2 * kPart);
  const Loaded b2 = Load(Version("/m/b", 2), 2 * kPart);
  Unload(a1);
  clock_.AdvanceSeconds(1);
  Unload(b1);
  registry_->Tidy();
  // The range that has not been used for longest gives, and no more than it has
  // to.
  EXPECT_EQ(StatsOf(a1.id).bytes_reserved, 3 * kPart);
  EXPECT_EQ(StatsOf(b1.id).bytes_reserved, 2 * kPart);
  EXPECT_EQ(registry_->GetTotals().trimmed_bytes, 3 * kPart);
  // Without the large model less is needed: what is left of one range is of no
  // use, and the next one has to give.
  clock_.AdvanceSeconds(1);
  Unload(a2);
  registry_->Tidy();
  EXPECT_EQ(StatsOf(a1.id).bytes_reserved, 0u);
  EXPECT_EQ(StatsOf(b1.id).bytes_reserved, 0u);
  EXPECT_EQ(StatsOf(a2.id).bytes_reserved, 2 * kPart);
  Unload(b2);
}

TEST_F(PoolRegistryTest, LastVersionThatGoesLeavesWhatItNeeded) {
  MakeRegistry();
  const Loaded a1 = Load(Version("/m/a", 1), 2 * kPart);
  const Loaded a2 = Load(Version("/m/a", 2), 3 * kPart);
  Unload(a1);
  Unload(a2);
  registry_->Tidy();
  EXPECT_EQ(memory_.committed_bytes(), 3 * kPart);
  const Loaded a3 = Load(Version("/m/a", 3), 3 * kPart);
  EXPECT_EQ(a3.id, a2.id);
  EXPECT_EQ(memory_.committed_bytes(), 3 * kPart);
  Unload(a3);
}

TEST_F(PoolRegistryTest, LoadThatHasNotSaidWhatItNeedsCostsNobodyMemory) {
  MakeRegistry();
  const Loaded a1 = Load(Version("/m/a", 1), 2 * kPart);
  const Loaded a2 = Load(Version("/m/a", 2), 2 * kPart);
  Unload(a1);
  Unload(a2);
  const uint8_t id = registry_->BeginLoad({Version("/m/a", 3)});
  registry_->Tidy();
  EXPECT_EQ(memory_.committed_bytes(), 4 * kPart);
  registry_->EndLoad(id);
}

TEST_F(PoolRegistryTest, StandbyMemoryIsOfferedToTheSystem) {
  MakeRegistry();
  const Loaded a1 = Load(Version("/m/a", 1), 3 * kPart);
  const Loaded a2 = Load(Version("/m/a", 2), 3 * kPart);
  registry_->Tidy();
  EXPECT_TRUE(memory_.offers().empty());
  Unload(a1);
  registry_->Tidy();
  EXPECT_EQ(memory_.offers().size(), 2u);
  registry_->Tidy();
  EXPECT_EQ(memory_.offers().size(), 2u);  // once is enough
  // Pages that the system has not taken cost nothing.
  const size_t commits = memory_.commits();
  const Loaded a3 = Load(Version("/m/a", 3), 3 * kPart);
  EXPECT_EQ(a3.tensor, a1.tensor);
  EXPECT_EQ(memory_.commits(), commits);
  Unload(a3);
  registry_->Tidy();
  EXPECT_EQ(memory_.offers().size(), 4u);
  Unload(a2);
}

TEST_F(PoolRegistryTest, WhatCannotBeOfferedIsKeptOnlyWithoutALimit) {
  memory_.refuse_offers = true;
  MakeRegistry();
  Unload(Load(Version("/m/a", 1), kPart));
  registry_->Tidy();
  EXPECT_EQ(memory_.committed_bytes(), kPart);
  limited_ = true;
  registry_->Tidy();
  EXPECT_EQ(memory_.committed_bytes(), 0u);
}

TEST_F(PoolRegistryTest, RetentionEndsAfterItsSeconds) {
  MakeRegistry(WithRetain(PoolPolicy::Retain::kSeconds, 3600));
  const Loaded v1 = Load(Version("/m/a", 1), kPart);
  const Loaded v2 = Load(Version("/m/a", 2), 2 * kPart);
  clock_.AdvanceSeconds(5000);
  registry_->Tidy();  // both are live
  Unload(v1);
  clock_.AdvanceSeconds(3599);
  registry_->Tidy();
  EXPECT_EQ(memory_.committed_bytes(), 3 * kPart);
  Unload(v2);
  clock_.AdvanceSeconds(1);
  // The registry's own thread may be first.
  registry_->Tidy();
  EXPECT_EQ(StatsOf(v1.id).bytes_reserved, 0u);
  EXPECT_EQ(StatsOf(v2.id).bytes_reserved, 2 * kPart);
  EXPECT_EQ(registry_->GetTotals().trimmed_bytes, kPart);
}

TEST_F(PoolRegistryTest, ReuseStartsTheRetentionOver) {
  MakeRegistry(WithRetain(PoolPolicy::Retain::kSeconds, 3600));
  const Loaded v1 = Load(Version("/m/a", 1), kPart);
  Unload(v1);
  clock_.AdvanceSeconds(3000);
  Unload(Load(Version("/m/a", 2), kPart));
  clock_.AdvanceSeconds(3000);
  registry_->Tidy();
  EXPECT_EQ(StatsOf(v1.id).bytes_reserved, kPart);
}

TEST_F(PoolRegistryTest, ReleaseGivesMemoryBackByItself) {
  has_keeper_ = true;
  MakeRegistry(WithRetain(PoolPolicy::Retain::kRelease));
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
  has_keeper_ = true;
  // GIVEN a slot that is being released, with a long pause after a slice
  release_pause_ = kForGood;
  MakeRegistry(WithRetain(PoolPolicy::Retain::kRelease));
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
  // GIVEN a range that is being given back
  has_keeper_ = true;
  release_pause_ = kForGood;
  PoolPolicy policy = WithRetain(PoolPolicy::Retain::kRelease);
  policy.limit_bytes = 42 * kPart;
  const std::thread::id here = std::this_thread::get_id();
  std::atomic<int> discards_here{0};
  memory_.on_discard = [&] {
    if (std::this_thread::get_id() == here) ++discards_here;
  };
  MakeRegistry(policy, /*address_space=*/128 * kMiB);
  const Loaded alive = Load(Version("/m/a", 1), kPart);
  const Loaded gone = Load(Version("/m/a", 2), 40 * kPart);
  Unload(gone);
  ASSERT_TRUE(Eventually([&] { return memory_.discards().size() == 1; }));
  // WHEN a model that is too small for the range needs the memory
  const Loaded other = Load(Version("/m/b", 1), 4 * kPart);
  // THEN it gets it, by its own doing
  EXPECT_NE(other.id, 0);
  EXPECT_NE(other.id, gone.id);
  EXPECT_EQ(discards_here, 2);
  Unload(alive);
}

TEST_F(PoolRegistryTest, PausedReleaseEndsWithTheRegistry) {
  has_keeper_ = true;
  release_pause_ = kForGood;
  MakeRegistry(WithRetain(PoolPolicy::Retain::kRelease));
  Unload(Load(Version("/m/a", 1), 8 * kPart));
  ASSERT_TRUE(Eventually([&] { return memory_.discards().size() == 1; }));
  registry_.reset();
  EXPECT_EQ(memory_.committed_bytes(), 0u);
}

TEST_F(PoolRegistryTest, KeeperStartsWithTheFirstRangeThatIsIdle) {
  has_keeper_ = true;
  std::atomic<bool> on_this_thread{false};
  const std::thread::id here = std::this_thread::get_id();
  memory_.on_discard = [&] {
    on_this_thread = std::this_thread::get_id() == here;
  };
  MakeRegistry(WithRetain(PoolPolicy::Retain::kRelease));
  const auto threads = [] {
    size_t count = 0;
    DIR* tasks = opendir("/proc/self/task");
    while (readdir(tasks) != nullptr) ++count;
    closedir(tasks);
    return count;
  };
  const size_t before = threads();
  const Loaded a = Load(Version("/m/a", 1), 4 * kPart);
  EXPECT_EQ(threads(), before);
  Unload(a);
  ASSERT_TRUE(Eventually([&] { return memory_.committed_bytes() == 0; }));
  EXPECT_EQ(threads(), before + 1);
  registry_.reset();
  EXPECT_FALSE(on_this_thread);
}

TEST_F(PoolRegistryTest, KeeperKeepsTheStockByDefault) {
  has_keeper_ = true;
  MakeRegistry();
  const Loaded a1 = Load(Version("/m/a", 1), 4 * kPart);
  const Loaded a2 = Load(Version("/m/a", 2), kPart);
  Unload(a1);
  EXPECT_TRUE(Eventually([&] {
    return memory_.committed_bytes() == 2 * kPart && !memory_.offers().empty();
  }));
  Unload(a2);
}

// Memory ahead of need.

PoolPolicy WithPrepare(size_t limit = 0) {
  PoolPolicy policy = WithLimit(limit);
  policy.prepare = true;
  return policy;
}

TEST_F(PoolRegistryTest, FirstUpdateFindsPreparedMemory) {
  has_keeper_ = true;
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

TEST_F(PoolRegistryTest, StockIsPreparedForTheLargestVersionAlive) {
  MakeRegistry(WithPrepare());
  const auto prepared = [this] {
    registry_->Tidy();
    return registry_->GetTotals().prepared_bytes;
  };
  EXPECT_EQ(prepared(), 0u);  // no model
  const Loaded a1 = Load(Version("/m/a", 1), kPart);
  const uint8_t loading = registry_->BeginLoad({Version("/m/b", 1), kPart});
  EXPECT_EQ(prepared(), 0u);  // another load runs
  registry_->EndLoad(loading);
  const Loaded b1 = Load(Version("/m/b", 1), 3 * kPart);
  EXPECT_EQ(prepared(), 2 * kPart);  // beside what that load has left
  EXPECT_EQ(prepared(), 2 * kPart);  // is there, for either model
  EXPECT_EQ(memory_.committed_bytes(), 7 * kPart);
  const Loaded b2 = Load(Version("/m/b", 2), 5 * kPart);
  EXPECT_EQ(prepared(), 2 * kPart);  // an update is on its way
  EXPECT_EQ(memory_.committed_bytes(), 9 * kPart);
  Unload(b1);
  // The range that the update left is extended to the new version's size.
  EXPECT_EQ(prepared(), 4 * kPart);
  EXPECT_EQ(StatsOf(b1.id).bytes_reserved, 5 * kPart);
  Unload(a1);
  Unload(b2);
  registry_->Tidy();
  EXPECT_EQ(registry_->GetTotals().prepared_bytes, 4 * kPart);  // none is alive
}

TEST_F(PoolRegistryTest, NothingIsPreparedIfNoUpdateCouldUseIt) {
  PoolPolicy policy = WithPrepare();
  policy.slots = 1;
  MakeRegistry(policy);
  const Loaded v1 = Load(Version("/m/a", 1), kPart);
  registry_->Tidy();
  EXPECT_EQ(registry_->List().size(), 1u);
  Unload(v1);
}

TEST_F(PoolRegistryTest, PreparationTakesNobodysMemory) {
  MakeRegistry(WithPrepare(6 * kPart));
  const Loaded a1 = Load(Version("/m/a", 1), 4 * kPart);
  registry_->Tidy();
  // THEN nothing is listed, and an update is not refused for it
  EXPECT_EQ(registry_->List().size(), 1u);
  const Loaded a2 = Load(Version("/m/a", 2), 2 * kPart);
  EXPECT_NE(a2.id, 0);
  Unload(a1);
  Unload(a2);
}

TEST_F(PoolRegistryTest, NothingIsPreparedIfTheSystemHasNoRoom) {
  MakeRegistry(WithPrepare());
  const Loaded a1 = Load(Version("/m/a", 1), 2 * kPart);
  headroom_ = kPart;
  registry_->Tidy();
  EXPECT_EQ(memory_.committed_bytes(), 2 * kPart);
  Unload(a1);
}

TEST_F(PoolRegistryTest, PreparedMemoryMakesRoomForALoad) {
  MakeRegistry(WithPrepare(10 * kPart));
  const Loaded a1 = Load(Version("/m/a", 1), 2 * kPart);
  registry_->Tidy();
  EXPECT_EQ(memory_.committed_bytes(), 4 * kPart);
  const Loaded b1 = Load(Version("/m/b", 1), 8 * kPart);
  EXPECT_NE(b1.id, 0);
  EXPECT_EQ(registry_->GetTotals().fallback_loads, 0u);
  Unload(a1);
  Unload(b1);
}

TEST_F(PoolRegistryTest, MemoryOfARefusedLoadIsReleasedToo) {
  has_keeper_ = true;
  MakeRegistry(WithRetain(PoolPolicy::Retain::kRelease));
  const uint8_t id = registry_->BeginLoad({Version("/m/a", 1), kPart});
  ASSERT_NE(id, 0);
  registry_->EndLoad(id);  // a corrupt checkpoint: no tensor came
  EXPECT_TRUE(Eventually([&] { return memory_.committed_bytes() == 0; }));
}

TEST_F(PoolRegistryTest, RetentionThreadEndsWithTheRegistry) {
  has_keeper_ = true;
  MakeRegistry(WithRetain(PoolPolicy::Retain::kSeconds, 3600));
  Unload(Load(Version("/m/a", 1), kPart));
  registry_.reset();
  EXPECT_EQ(memory_.committed_bytes(), 0u);
}

// fork(2).

class ForkTest : public PoolRegistryTest {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "ThreadSanitizer forbids threads in a forked child";
#endif
  }

  // Runs `child` in a forked process. Returns what it returns; false if it does
  // not end.
  bool InChild(const std::function<bool()>& child) {
    registry_->BeforeFork();
    const pid_t pid = fork();
    registry_->AfterFork(/*in_child=*/pid == 0);
    if (pid == 0) {
      alarm(60);  // a lock that nobody holds
      _exit(child() ? 0 : 1);
    }
    int status = -1;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

  // Loads, frees and trims.
  bool Works() {
    const Loaded loaded = Load(Version("/m/child", 1), 2 * kPart);
    if (loaded.id == 0 || loaded.tensor == nullptr) return false;
    std::memset(loaded.tensor, 1, 2 * kPart);
    Unload(loaded);
    registry_->Trim();
    return StatsOf(loaded.id).bytes_reserved == 0;
  }
};

TEST_F(ForkTest, ChildAndParentWorkOn) {
  has_keeper_ = true;
  MakeRegistry(WithRetain(PoolPolicy::Retain::kRelease));
  const Loaded a = Load(Version("/m/a", 1), kPart);
  const Loaded b = Load(Version("/m/b", 1), kPart);
  Unload(b);  // the keeper runs
  ASSERT_TRUE(Eventually([&] { return memory_.committed_bytes() == kPart; }));
  EXPECT_TRUE(InChild([&] {
    Unload(a);
    // A keeper of its own.
    return Eventually([&] { return memory_.committed_bytes() == 0; }) &&
           Works();
  }));
  EXPECT_TRUE(Works());
  EXPECT_EQ(StatsOf(a.id).state, PoolState::kLive);
  Unload(a);
}

TEST_F(ForkTest, ChildWorksIfAPoolWasGrowing) {
  MakeRegistry();
  const Loaded a = Load(Version("/m/a", 1), 4 * kPart);
  Unload(a);
  // GIVEN another thread that is faulting memory in
  std::atomic<bool> growing{false};
  std::atomic<bool> go_on{false};
  std::atomic<int> loads{0};
  memory_.on_commit = [&] {
    growing = true;
    Eventually([&] { return go_on.load(); });
  };
  std::thread loader([&] {
    const Loaded b = Load(Version("/m/b", 1), 12 * kPart);
    loads += b.id != 0;
    Unload(b);
  });
  ASSERT_TRUE(Eventually([&] { return growing.load(); }));
  // WHEN the process forks THEN the child does not wait for that thread
  EXPECT_TRUE(InChild([&] {
    memory_.on_commit = nullptr;
    return Works();
  }));
  go_on = true;
  loader.join();
  EXPECT_EQ(loads, 1);
}

TEST_F(ForkTest, ChildWorksIfMemoryWasBeingGivenBack) {
  // GIVEN a trim that pauses for good, with the registry's locks
  has_keeper_ = true;
  release_pause_ = kForGood;
  MakeRegistry(WithRetain(PoolPolicy::Retain::kRelease));
  Unload(Load(Version("/m/a", 1), 8 * kPart));
  ASSERT_TRUE(Eventually([&] { return memory_.discards().size() == 1; }));
  EXPECT_TRUE(InChild([&] {
    const Loaded loaded = Load(Version("/m/child", 1), 6 * kPart);
    return loaded.id != 0 && loaded.tensor != nullptr &&
           registry_->pool(loaded.id)->Deallocate(loaded.tensor);
  }));
}

// Threads.

class ConcurrentSwapsTest : public PoolRegistryTest,
                            public ::testing::WithParamInterface<PoolPolicy> {};

TEST_P(ConcurrentSwapsTest, LoseNoMemoryAndMixNoVersions) {
  has_keeper_ = true;
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
        const uint8_t id = registry_->BeginLoad({identity, sum});
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
      EXPECT_LE(stats.slot, 'Z');
    }
    registry_->GetTotals();
    if (GetParam().retain == PoolPolicy::Retain::kStandby) registry_->Trim();
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
  // The count of what is taken is 0 again: all of the limit can be had.
  if (GetParam().limit_bytes > 0) {
    const Loaded all = Load(Version("/m/last", 1), GetParam().limit_bytes);
    EXPECT_NE(all.id, 0);
    Unload(all);
  }
}

INSTANTIATE_TEST_SUITE_P(
    PoolPolicy, ConcurrentSwapsTest,
    ::testing::Values(PoolPolicy(), WithRetain(PoolPolicy::Retain::kRelease),
                      WithLimit(3 * kPart), WithPrepare(),
                      WithPrepare(3 * kPart)),
    [](const ::testing::TestParamInfo<PoolPolicy>& info) {
      if (info.param.prepare) {
        return info.param.limit_bytes > 0 ? "PrepareLimit" : "Prepare";
      }
      if (info.param.limit_bytes > 0) return "Limit";
      return info.param.retain == PoolPolicy::Retain::kRelease ? "Release"
                                                               : "Standby";
    });

}  // namespace
}  // namespace tf_model_pool
