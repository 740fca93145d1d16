// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/model_pool.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tf_allocator/pool/testing/fake_system_memory.h"

namespace tf_model_pool {
namespace {

constexpr size_t kPart = kRegionGranularity;

class FakeBudget : public MemoryBudget {
 public:
  bool Charge(size_t bytes, bool make_room) override {
    if (make_room) ++asked_for_room;
    size_t charged = charged_;
    do {
      if (charged + bytes > limit) return false;
    } while (!charged_.compare_exchange_weak(charged, charged + bytes));
    return true;
  }
  void Refund(size_t bytes) override {
    EXPECT_GE(charged_.fetch_sub(bytes), bytes);
  }
  bool MakeRoom() override {
    ++asked_of_the_system;
    return makes_room;
  }
  size_t charged() const { return charged_; }

  std::atomic<size_t> limit{size_t{1} << 40};
  std::atomic<int> asked_for_room{0};
  std::atomic<int> asked_of_the_system{0};
  bool makes_room = false;

 private:
  std::atomic<size_t> charged_{0};
};

class ModelPoolTest : public ::testing::Test {
 protected:
  ~ModelPoolTest() override {
    pool_.reset();
    EXPECT_EQ(budget_.charged(), 0u);
  }

  void MakePool(size_t address_space = 64 * kMiB) {
    ModelPool::Options options;
    options.address_space = address_space;
    options.now_ns = clock_.AsFunction();
    options.on_idle = [this] {
      ++idle_calls_;
      if (on_idle_) on_idle_();
    };
    pool_ = std::make_unique<ModelPool>(&memory_, &budget_, options);
  }

  // A pool in a load that has announced `bytes`.
  void MakeLoadingPool(size_t bytes, size_t address_space = 64 * kMiB) {
    MakePool(address_space);
    pool_->BeginLoad(/*new_version=*/true);
    ASSERT_TRUE(pool_->Reserve(bytes));
  }

  void* Allocate(size_t bytes, size_t alignment = 64) {
    void* p = pool_->Allocate(alignment, bytes);
    if (p != nullptr) std::memset(p, 0x5a, bytes);
    return p;
  }

  PoolStats Stats() const {
    PoolStats stats;
    pool_->FillStats(&stats);
    return stats;
  }

  void Refuse() {
    memory_.refuse_commits = true;
    memory_.max_reserve = 0;
  }

  FakeSystemMemory memory_;
  FakeBudget budget_;
  FakeClock clock_;
  std::atomic<int> idle_calls_{0};
  std::function<void()> on_idle_;
  std::unique_ptr<ModelPool> pool_;
};

// A load gets by with what it announces.

TEST_F(ModelPoolTest, SumOfRoundedSizesFitsWithoutFurtherGrowth) {
  std::mt19937 random(7);
  std::uniform_int_distribution<size_t> size(1, 40000);
  std::vector<size_t> sizes;
  size_t sum = 0;
  for (int i = 0; i < 500; ++i) {
    sizes.push_back(size(random));
    sum += RoundUp(sizes.back(), kChunkGranularity);
  }
  MakeLoadingPool(sum);
  for (const size_t bytes : sizes) ASSERT_NE(Allocate(bytes), nullptr);
  EXPECT_EQ(Stats().num_mappings, 1u);
  EXPECT_EQ(Stats().bytes_reserved, RoundUp(sum, kPart));
  EXPECT_EQ(Stats().bytes_in_use, sum);
}

TEST_F(ModelPoolTest, ReservedBytesCanBeUsedToTheLastOne) {
  MakeLoadingPool(2 * kPart);
  ASSERT_NE(Allocate(1), nullptr);
  ASSERT_NE(Allocate(kPart), nullptr);
  ASSERT_NE(Allocate(kPart - 128), nullptr);
  EXPECT_EQ(Stats().largest_free_block, 64u);
  ASSERT_NE(Allocate(64), nullptr);
  EXPECT_EQ(Stats().largest_free_block, 0u);
  EXPECT_EQ(Stats().bytes_in_use, Stats().bytes_reserved);
  EXPECT_EQ(Stats().num_mappings, 1u);
}

TEST_F(ModelPoolTest, TimeOfMakingMemoryUsableIsAddedUp) {
  memory_.on_commit = [this] { clock_.AdvanceSeconds(3); };
  MakeLoadingPool(kPart);
  EXPECT_EQ(Stats().prefault_ns, 3000000000u);
  // Room that is there costs nothing.
  void* first = Allocate(kPart);
  EXPECT_EQ(Stats().prefault_ns, 3000000000u);
  // Growth for a single tensor counts as an announced load does.
  void* second = Allocate(kPart);
  EXPECT_EQ(Stats().prefault_ns, 6000000000u);
  pool_->EndLoad();
  EXPECT_TRUE(pool_->Deallocate(first));
  EXPECT_TRUE(pool_->Deallocate(second));
}

TEST_F(ModelPoolTest, RefusedMemoryTakesNoTime) {
  memory_.on_commit = [this] { clock_.AdvanceSeconds(3); };
  MakePool();
  pool_->BeginLoad(/*new_version=*/true);
  Refuse();
  EXPECT_FALSE(pool_->Reserve(kPart));
  EXPECT_EQ(Stats().prefault_ns, 0u);
  pool_->EndLoad();
}

TEST_F(ModelPoolTest, EachLoadsAnnouncementGetsRoomOfItsOwn) {
  MakeLoadingPool(kPart);
  pool_->BeginLoad(false);
  ASSERT_TRUE(pool_->Reserve(kPart));
  EXPECT_EQ(Stats().bytes_reserved, 2 * kPart);
}

TEST_F(ModelPoolTest, TensorsConsumeTheAnnouncement) {
  MakeLoadingPool(2 * kPart);
  ASSERT_NE(Allocate(kPart), nullptr);
  ASSERT_TRUE(pool_->Reserve(kPart));
  // One part is promised from before and one now; one is free.
  EXPECT_EQ(Stats().bytes_reserved, 3 * kPart);
}

TEST_F(ModelPoolTest, AnnouncementsEndWithTheLastLoad) {
  MakeLoadingPool(2 * kPart);
  pool_->EndLoad();
  pool_->BeginLoad(true);
  ASSERT_TRUE(pool_->Reserve(2 * kPart));
  EXPECT_EQ(Stats().num_mappings, 1u);
}

TEST_F(ModelPoolTest, NothingAnnouncedMapsNothing) {
  MakeLoadingPool(0);
  EXPECT_EQ(Stats().num_mappings, 0u);
  EXPECT_EQ(Stats().num_regions, 0u);
}

TEST_F(ModelPoolTest, LoadOfUnknownSizeGrowsInStrides) {
  MakeLoadingPool(0);
  for (size_t bytes = 0; bytes < 64 * kMiB; bytes += 64 * 1024) {
    ASSERT_NE(pool_->Allocate(64, 64 * 1024), nullptr);
  }
  EXPECT_LT(Stats().num_mappings, 64 * kMiB / kPart / 2);
}

TEST_F(ModelPoolTest, StrideThatIsRefusedShrinksToTheNeed) {
  MakeLoadingPool(16 * kMiB);
  ASSERT_NE(Allocate(16 * kMiB), nullptr);
  budget_.limit = 18 * kMiB;  // a stride would be 4 MiB
  EXPECT_NE(Allocate(kMiB), nullptr);
  EXPECT_EQ(Stats().bytes_reserved, 18 * kMiB);
}

// Refusals.

TEST_F(ModelPoolTest, ReservationRefusedBySystemLeavesTheAccountsIntact) {
  MakeLoadingPool(kPart);
  memory_.refuse_commits = true;
  EXPECT_FALSE(pool_->Reserve(kPart));
  EXPECT_EQ(Stats().bytes_reserved, kPart);
  EXPECT_EQ(Stats().num_mappings, 1u);
  EXPECT_EQ(budget_.charged(), kPart);
  // All that was announced before is still there, and no more is promised.
  EXPECT_NE(Allocate(kPart), nullptr);
  memory_.refuse_commits = false;
  ASSERT_TRUE(pool_->Reserve(kPart));
  EXPECT_EQ(Stats().bytes_reserved, 2 * kPart);
}

TEST_F(ModelPoolTest, ReservationRefusedByBudgetLeavesTheAccountsIntact) {
  MakeLoadingPool(kPart);
  budget_.limit = 2 * kPart;
  EXPECT_FALSE(pool_->Reserve(2 * kPart));
  EXPECT_EQ(budget_.charged(), kPart);
  EXPECT_EQ(memory_.committed_bytes(), kPart);
  EXPECT_TRUE(pool_->Reserve(kPart));
  EXPECT_EQ(Stats().bytes_reserved, 2 * kPart);
}

TEST_F(ModelPoolTest, AbsurdSizesAreRefused) {
  MakeLoadingPool(kPart);
  constexpr size_t kMax = std::numeric_limits<size_t>::max();
  EXPECT_FALSE(pool_->Reserve(kMax));
  EXPECT_FALSE(pool_->Reserve(kMax - kPart + 1));
  EXPECT_FALSE(pool_->Reserve(kMax / 2));
  EXPECT_FALSE(pool_->Reserve(size_t{1} << 62));
  EXPECT_EQ(pool_->Allocate(64, kMax), nullptr);
  EXPECT_EQ(pool_->Allocate(64, kMax - 63), nullptr);
  EXPECT_EQ(Stats().bytes_reserved, kPart);
  EXPECT_NE(Allocate(kPart), nullptr);
}

TEST_F(ModelPoolTest, AllocationThatCannotGrowReturnsNull) {
  MakeLoadingPool(kPart);
  Refuse();
  EXPECT_EQ(Allocate(kPart + 1), nullptr);
  EXPECT_NE(Allocate(kPart), nullptr);
  EXPECT_EQ(Allocate(1), nullptr);
  EXPECT_EQ(Stats().num_tensors, 1u);
  EXPECT_EQ(budget_.charged(), kPart);
}

TEST_F(ModelPoolTest, ZeroBytesGetNoMemory) {
  MakeLoadingPool(kPart);
  EXPECT_EQ(pool_->Allocate(64, 0), nullptr);
  EXPECT_EQ(Stats().num_tensors, 0u);
}

// Alignment.

TEST_F(ModelPoolTest, BuffersAreAlignedAsAskedAndToSixtyFourAtLeast) {
  MakeLoadingPool(0);
  for (size_t alignment = 1; alignment <= kPart; alignment *= 2) {
    ASSERT_NE(Allocate(1), nullptr);  // so that the next place is odd
    void* p = Allocate(100, alignment);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % std::max<size_t>(alignment, 64),
              0u);
  }
}

TEST_F(ModelPoolTest, BytesSkippedForAlignmentStayUsable) {
  MakeLoadingPool(kPart);
  void* first = Allocate(64);
  void* aligned = Allocate(64, 4096);
  ASSERT_EQ(static_cast<char*>(aligned) - static_cast<char*>(first), 4096);
  EXPECT_EQ(Allocate(4096 - 64), static_cast<char*>(first) + 64);
}

TEST_F(ModelPoolTest, AlignmentBeyondTheGranularityIsRefused) {
  MakeLoadingPool(kPart);
  EXPECT_EQ(pool_->Allocate(2 * kPart, 64), nullptr);
}

TEST_F(ModelPoolTest, GrowthServesEveryAlignmentWithoutExtraMemory) {
  MakeLoadingPool(kPart);
  ASSERT_NE(Allocate(kPart - 64), nullptr);
  void* p = Allocate(kPart, kPart);
  ASSERT_NE(p, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % kPart, 0u);
  EXPECT_EQ(Stats().bytes_reserved, 2 * kPart);
}

// Best fit and coalescing.

TEST_F(ModelPoolTest, SmallestHoleThatFitsIsTaken) {
  MakeLoadingPool(kPart);
  void* large = Allocate(512);
  Allocate(64);
  void* small = Allocate(128);
  Allocate(64);
  void* middle = Allocate(256);
  Allocate(64);
  ASSERT_TRUE(pool_->Deallocate(large));
  ASSERT_TRUE(pool_->Deallocate(small));
  ASSERT_TRUE(pool_->Deallocate(middle));
  EXPECT_EQ(Allocate(193), middle);
  EXPECT_EQ(Allocate(128), small);
  EXPECT_EQ(Allocate(64), large);
}

TEST_F(ModelPoolTest, FreeNeighboursBecomeOneChunk) {
  MakeLoadingPool(kPart);
  std::vector<void*> p;
  for (int i = 0; i < 4; ++i) p.push_back(Allocate(kPart / 4));
  ASSERT_TRUE(pool_->Deallocate(p[0]));
  ASSERT_TRUE(pool_->Deallocate(p[2]));
  EXPECT_EQ(Stats().largest_free_block, kPart / 4);
  ASSERT_TRUE(pool_->Deallocate(p[1]));
  EXPECT_EQ(Stats().largest_free_block, 3 * kPart / 4);
  ASSERT_TRUE(pool_->Deallocate(p[3]));
  EXPECT_EQ(Stats().largest_free_block, kPart);
}

TEST_F(ModelPoolTest, WhatIsNotABufferInUseIsNotFreed) {
  MakeLoadingPool(kPart);
  char* p = static_cast<char*>(Allocate(128));
  int elsewhere = 0;
  EXPECT_FALSE(pool_->Deallocate(nullptr));
  EXPECT_FALSE(pool_->Deallocate(&elsewhere));
  EXPECT_FALSE(pool_->Deallocate(p + 64));   // inside a buffer
  EXPECT_FALSE(pool_->Deallocate(p + 128));  // a free chunk
  EXPECT_TRUE(pool_->Deallocate(p));
  EXPECT_FALSE(pool_->Deallocate(p));
  EXPECT_EQ(Stats().num_tensors, 0u);
  EXPECT_EQ(Stats().bytes_in_use, 0u);
}

TEST_F(ModelPoolTest, SizesTellWhatWasAskedAndWhatWasGranted) {
  MakeLoadingPool(kPart);
  char* p = static_cast<char*>(Allocate(100));
  size_t requested = 0;
  size_t granted = 0;
  ASSERT_TRUE(pool_->Sizes(p, &requested, &granted));
  EXPECT_EQ(requested, 100u);
  EXPECT_EQ(granted, 128u);
  EXPECT_FALSE(pool_->Sizes(p + 64, &requested, &granted));
  EXPECT_FALSE(pool_->Sizes(p + 128, &requested, &granted));
  ASSERT_TRUE(pool_->Deallocate(p));
  EXPECT_FALSE(pool_->Sizes(p, &requested, &granted));
}

TEST_F(ModelPoolTest, ContainsEndsWithTheUsableBytes) {
  MakeLoadingPool(kPart);
  char* p = static_cast<char*>(Allocate(64));
  EXPECT_TRUE(pool_->Contains(p));
  EXPECT_TRUE(pool_->Contains(p + kPart - 1));
  EXPECT_FALSE(pool_->Contains(p - 1));
  EXPECT_FALSE(pool_->Contains(p + kPart));
  EXPECT_FALSE(pool_->Contains(nullptr));
}

// Random sequences against a model that knows only what is in use: the free
// chunks must be exactly the gaps between, so every byte is in one chunk and
// each allocation lands in the place that best fit says.
class RandomSequenceTest
    : public ModelPoolTest,
      public ::testing::WithParamInterface<std::tuple<int, int>> {
 protected:
  using Gap = std::pair<size_t, char*>;

  std::set<Gap> Gaps() const {
    std::set<Gap> gaps;
    for (size_t i = 0; i < regions_; ++i) {
      char* at = memory_.base() + i * region_bytes_;
      char* const end = at + region_bytes_;
      for (auto it = used_.lower_bound(at);
           it != used_.end() && it->first < end; ++it) {
        EXPECT_GE(it->first, at) << "overlap";
        if (it->first > at) gaps.insert({it->first - at, at});
        at = it->first + it->second;
      }
      EXPECT_LE(at, end) << "past the end of its region";
      if (at < end) gaps.insert({end - at, at});
    }
    return gaps;
  }

  static char* BestFit(const std::set<Gap>& gaps, size_t size,
                       size_t alignment) {
    for (const Gap& gap : gaps) {
      const uintptr_t begin = reinterpret_cast<uintptr_t>(gap.second);
      const uintptr_t aligned = RoundUp(begin, alignment);
      if (aligned + size <= begin + gap.first) {
        return reinterpret_cast<char*>(aligned);
      }
    }
    return nullptr;
  }

  std::map<char*, size_t> used_;
  size_t regions_ = 0;
  size_t region_bytes_ = 0;
};

TEST_P(RandomSequenceTest, FreeChunksAreExactlyTheGaps) {
  // GIVEN regions that lie side by side, and no further growth
  const auto [seed, regions] = GetParam();
  regions_ = regions;
  region_bytes_ = 4 * kMiB / regions_;
  MakePool(region_bytes_);
  pool_->BeginLoad(true);
  for (size_t i = 0; i < regions_; ++i) {
    ASSERT_TRUE(pool_->Reserve(region_bytes_));
  }
  Refuse();
  std::mt19937 random(seed);
  const auto below = [&](size_t n) {
    return std::uniform_int_distribution<size_t>(0, n - 1)(random);
  };

  // WHEN buffers come and go at random
  size_t refused = 0;
  for (int step = 0; step < 3000; ++step) {
    const std::set<Gap> gaps = Gaps();
    ASSERT_EQ(Stats().largest_free_block,
              gaps.empty() ? 0 : gaps.rbegin()->first);
    // Phases that fill and phases that drain.
    const bool fill = below(10) < ((step / 500) % 2 == 0 ? 7u : 3u);
    if (fill) {
      const size_t bytes = 1 + below(size_t{1} << (4 + below(16)));
      const size_t alignment = below(8) == 0 ? size_t{64} << below(9) : 64;
      const size_t size = RoundUp(bytes, 64);
      char* p = static_cast<char*>(pool_->Allocate(alignment, bytes));
      ASSERT_EQ(p, BestFit(gaps, size, alignment));
      if (p == nullptr) {
        ++refused;
        continue;
      }
      *p = static_cast<char>(step);
      p[bytes - 1] = static_cast<char>(step);
      used_[p] = size;
    } else if (!used_.empty()) {
      const auto it = std::next(used_.begin(), below(used_.size()));
      ASSERT_TRUE(pool_->Deallocate(it->first));
      used_.erase(it);
    }
    size_t in_use = 0;
    for (const auto& entry : used_) in_use += entry.second;
    ASSERT_EQ(Stats().bytes_in_use, in_use);
    ASSERT_EQ(Stats().num_tensors, used_.size());
  }
  EXPECT_GT(refused, 0u);  // the pool was full at times

  // THEN one free chunk per region is left in the end
  for (const auto& entry : used_) ASSERT_TRUE(pool_->Deallocate(entry.first));
  used_.clear();
  EXPECT_EQ(Stats().largest_free_block, region_bytes_);
  for (size_t i = 0; i < regions_; ++i) {
    EXPECT_NE(pool_->Allocate(64, region_bytes_), nullptr);
  }
  EXPECT_EQ(Stats().largest_free_block, 0u);
}

INSTANTIATE_TEST_SUITE_P(SeedsAndRegions, RandomSequenceTest,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4),
                                            ::testing::Values(1, 2)));

// From version to version.

TEST_F(ModelPoolTest, SmallerNextVersionMapsNothing) {
  MakeLoadingPool(4 * kPart);
  void* first = Allocate(4 * kPart);
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(first));

  pool_->BeginLoad(true);
  ASSERT_TRUE(pool_->Reserve(3 * kPart));
  EXPECT_EQ(Allocate(3 * kPart), first);
  EXPECT_EQ(Stats().num_mappings, 1u);
  EXPECT_EQ(memory_.commits(), 1u);
  EXPECT_EQ(Stats().bytes_reserved, 4 * kPart);
}

TEST_F(ModelPoolTest, LargerNextVersionExtendsInPlace) {
  MakeLoadingPool(2 * kPart);
  void* first = Allocate(2 * kPart);
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(first));

  pool_->BeginLoad(true);
  ASSERT_TRUE(pool_->Reserve(3 * kPart));
  EXPECT_EQ(Stats().bytes_reserved, 3 * kPart);
  // One tensor that is larger than the whole version before.
  EXPECT_EQ(Allocate(3 * kPart), first);
  EXPECT_EQ(Stats().num_regions, 1u);
  EXPECT_EQ(Stats().num_mappings, 2u);
}

TEST_F(ModelPoolTest, TrimmedPoolReloadsInItsOldPlace) {
  MakeLoadingPool(2 * kPart);
  void* first = Allocate(2 * kPart);
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(first));
  EXPECT_EQ(pool_->Trim(), 2 * kPart);
  EXPECT_EQ(memory_.committed_bytes(), 0u);
  EXPECT_EQ(budget_.charged(), 0u);
  EXPECT_EQ(Stats().bytes_reserved, 0u);
  EXPECT_EQ(Stats().largest_free_block, 0u);
  EXPECT_FALSE(pool_->Contains(first));
  EXPECT_EQ(pool_->Trim(), 0u);

  pool_->BeginLoad(true);
  ASSERT_TRUE(pool_->Reserve(2 * kPart));
  EXPECT_EQ(Allocate(2 * kPart), first);
  EXPECT_EQ(Stats().num_regions, 1u);
  EXPECT_EQ(memory_.requests().size(), 1u);
}

TEST_F(ModelPoolTest, PeakStartsOverWithANewVersion) {
  MakeLoadingPool(kPart);
  void* p = Allocate(kPart);
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(p));
  EXPECT_EQ(Stats().peak_bytes_in_use, kPart);
  pool_->BeginLoad(/*new_version=*/false);
  EXPECT_EQ(Stats().peak_bytes_in_use, kPart);
  pool_->EndLoad();
  pool_->BeginLoad(/*new_version=*/true);
  EXPECT_EQ(Stats().peak_bytes_in_use, 0u);
}

// Idle.

TEST_F(ModelPoolTest, TrimTakesNothingFromAPoolInUse) {
  MakeLoadingPool(kPart);
  EXPECT_EQ(pool_->Trim(), 0u);  // a load
  void* p = Allocate(64);
  pool_->EndLoad();
  EXPECT_EQ(pool_->Trim(), 0u);  // a tensor
  pool_->AddFallback(10);
  ASSERT_TRUE(pool_->Deallocate(p));
  EXPECT_EQ(pool_->Trim(), 0u);  // a tensor of its version elsewhere
  EXPECT_EQ(memory_.committed_bytes(), kPart);
  pool_->RemoveFallback(10);
  EXPECT_EQ(pool_->Trim(), kPart);
}

TEST_F(ModelPoolTest, TrimGoesFromTheEndInSlicesAndUnmapsOnce) {
  // GIVEN an idle pool of two and a half slices
  MakeLoadingPool(5 * kPart);
  char* first = static_cast<char*>(Allocate(5 * kPart));
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(first));
  // WHEN it is trimmed
  std::vector<size_t> left;
  EXPECT_EQ(pool_->Trim([&] {
    left.push_back(Stats().bytes_reserved);
    return true;
  }),
            5 * kPart);
  // THEN pages go two huge pages at a time, with a pause after each
  const auto discards = memory_.discards();
  ASSERT_EQ(discards.size(), 3u);
  EXPECT_EQ(discards[0].address, first + 3 * kPart);
  EXPECT_EQ(discards[1].address, first + kPart);
  EXPECT_EQ(discards[2].address, first);
  EXPECT_EQ(discards[0].bytes, 2 * kPart);
  EXPECT_EQ(discards[1].bytes, 2 * kPart);
  EXPECT_EQ(discards[2].bytes, kPart);
  EXPECT_EQ(left, (std::vector<size_t>{3 * kPart, kPart, 0}));
  // THEN the empty range goes in one
  const auto decommits = memory_.decommits();
  ASSERT_EQ(decommits.size(), 1u);
  EXPECT_EQ(decommits[0].address, first);
  EXPECT_EQ(decommits[0].bytes, 5 * kPart);
  EXPECT_EQ(budget_.charged(), 0u);
}

TEST_F(ModelPoolTest, LoadThatBeginsStopsTheTrimAndKeepsWhatIsLeft) {
  MakeLoadingPool(6 * kPart);
  char* first = static_cast<char*>(Allocate(6 * kPart));
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(first));
  // WHEN a load begins after the first slice
  EXPECT_EQ(pool_->Trim([&] {
    EXPECT_EQ(memory_.discards().size(), 1u);
    pool_->BeginLoad(true);
    return true;
  }),
            2 * kPart);
  // THEN no other slice goes
  EXPECT_EQ(memory_.discards().size(), 1u);
  EXPECT_EQ(memory_.committed_bytes(), 4 * kPart);
  EXPECT_EQ(budget_.charged(), 4 * kPart);
  EXPECT_EQ(Stats().bytes_reserved, 4 * kPart);
  EXPECT_EQ(Stats().largest_free_block, 4 * kPart);
  // THEN what is left serves the load, and only the rest is mapped again
  ASSERT_TRUE(pool_->Reserve(6 * kPart));
  EXPECT_EQ(memory_.committed_bytes(), 6 * kPart);
  EXPECT_EQ(Allocate(6 * kPart), first);
  EXPECT_EQ(Stats().num_regions, 1u);
}

TEST_F(ModelPoolTest, TensorsOfALoadDoNotGetMemoryThatIsBeingGivenBack) {
  MakeLoadingPool(4 * kPart);
  char* first = static_cast<char*>(Allocate(4 * kPart));
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(first));
  // GIVEN a trim that has given the upper half back
  void* p = nullptr;
  EXPECT_EQ(pool_->Trim([&] {
    pool_->BeginLoad(true);
    p = pool_->Allocate(64, 2 * kPart);
    return true;
  }),
            2 * kPart);
  // THEN a tensor lies in the lower one
  EXPECT_EQ(p, first);
  EXPECT_EQ(Stats().bytes_in_use, 2 * kPart);
  EXPECT_EQ(Stats().bytes_reserved, 2 * kPart);
  std::memset(p, 0x5a, 2 * kPart);  // usable
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(p));
}

TEST_F(ModelPoolTest, TrimThatIsToldToStopLosesNothing) {
  MakeLoadingPool(6 * kPart);
  void* p = Allocate(6 * kPart);
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(p));
  EXPECT_EQ(pool_->Trim([] { return false; }), 2 * kPart);
  EXPECT_EQ(Stats().bytes_reserved, 4 * kPart);
  EXPECT_EQ(budget_.charged(), 4 * kPart);
  EXPECT_EQ(pool_->Trim(), 4 * kPart);
  EXPECT_EQ(memory_.committed_bytes(), 0u);
}

TEST_F(ModelPoolTest, TrimGivesNoMoreThanItIsAskedFor) {
  MakeLoadingPool(5 * kPart);
  char* first = static_cast<char*>(Allocate(5 * kPart));
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(first));
  EXPECT_EQ(pool_->Trim([] { return true; }, 3 * kPart), 3 * kPart);
  const auto discards = memory_.discards();
  ASSERT_EQ(discards.size(), 2u);
  EXPECT_EQ(discards[0].bytes, 2 * kPart);
  EXPECT_EQ(discards[1].address, first + 2 * kPart);
  EXPECT_EQ(discards[1].bytes, kPart);
  EXPECT_EQ(Stats().bytes_reserved, 2 * kPart);
  EXPECT_EQ(budget_.charged(), 2 * kPart);
}

TEST_F(ModelPoolTest, IndivisibleMemoryIsGivenBackWholeOrNotAtAll) {
  memory_.divisible = false;
  MakeLoadingPool(5 * kPart);
  void* p = Allocate(5 * kPart);
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(p));
  EXPECT_EQ(pool_->Trim([] { return true; }, 3 * kPart), 0u);
  EXPECT_EQ(pool_->Trim([] { return true; }, 5 * kPart), 5 * kPart);
}

// Memory that the system may take.

TEST_F(ModelPoolTest, IdleMemoryIsOfferedInSlices) {
  MakeLoadingPool(3 * kPart, /*address_space=*/4 * kPart);
  char* p = static_cast<char*>(Allocate(3 * kPart));
  char* q = static_cast<char*>(Allocate(2 * kPart));
  EXPECT_TRUE(pool_->Offer());
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(p));
  EXPECT_TRUE(pool_->Offer());
  EXPECT_TRUE(memory_.offers().empty());  // a tensor lies in the other region
  ASSERT_TRUE(pool_->Deallocate(q));
  EXPECT_TRUE(pool_->Offer());
  const auto offers = memory_.offers();
  ASSERT_EQ(offers.size(), 3u);
  EXPECT_EQ(offers[0].address, p);
  EXPECT_EQ(offers[0].bytes, 2 * kPart);
  EXPECT_EQ(offers[1].address, p + 2 * kPart);
  EXPECT_EQ(offers[1].bytes, kPart);
  EXPECT_EQ(offers[2].address, q);
  EXPECT_EQ(offers[2].bytes, 2 * kPart);
  EXPECT_EQ(Stats().bytes_reserved, 5 * kPart);
}

TEST_F(ModelPoolTest, MemoryIsOfferedOncePerIdleTime) {
  MakeLoadingPool(kPart);
  pool_->EndLoad();
  EXPECT_TRUE(pool_->Offer());
  EXPECT_TRUE(pool_->Offer());
  EXPECT_EQ(memory_.offers().size(), 1u);
  // Memory that is made usable ahead of need is new.
  EXPECT_EQ(pool_->Prepare(2 * kPart), kPart);
  EXPECT_TRUE(pool_->Offer());
  EXPECT_EQ(memory_.offers().size(), 2u);
  pool_->BeginLoad(true);
  pool_->EndLoad();
  EXPECT_TRUE(pool_->Offer());
  EXPECT_EQ(memory_.offers().size(), 3u);
}

TEST_F(ModelPoolTest, RefusedOfferIsTold) {
  memory_.refuse_offers = true;
  MakeLoadingPool(kPart);
  pool_->EndLoad();
  EXPECT_FALSE(pool_->Offer());
  memory_.refuse_offers = false;
  EXPECT_TRUE(pool_->Offer());
}

TEST_F(ModelPoolTest, NeedIsWhatAVersionHasAnnouncedOrHadInUse) {
  MakeLoadingPool(2 * kPart);
  EXPECT_EQ(pool_->bytes_needed(), 2 * kPart);
  void* a = Allocate(kPart);
  void* b = Allocate(kPart);
  EXPECT_EQ(pool_->bytes_needed(), 2 * kPart);
  ASSERT_TRUE(pool_->Reserve(kPart));
  EXPECT_EQ(pool_->bytes_needed(), 3 * kPart);
  pool_->EndLoad();
  EXPECT_EQ(pool_->bytes_needed(), 2 * kPart);
  ASSERT_TRUE(pool_->Deallocate(a));
  ASSERT_TRUE(pool_->Deallocate(b));
  EXPECT_EQ(pool_->bytes_needed(), 2 * kPart);
  pool_->BeginLoad(true);
  EXPECT_EQ(pool_->bytes_needed(), 0u);
  pool_->EndLoad();
}

TEST_F(ModelPoolTest, SystemThatRefusesIsAskedAgainAfterRoomWasMade) {
  MakeLoadingPool(0);
  memory_.refuse_commits = true;
  EXPECT_FALSE(pool_->Reserve(kPart));
  EXPECT_EQ(budget_.asked_of_the_system, 1);
  EXPECT_EQ(budget_.charged(), 0u);
  EXPECT_EQ(pool_->Prepare(kPart), 0u);
  EXPECT_EQ(budget_.asked_of_the_system, 1);
}

TEST_F(ModelPoolTest, IndivisibleMemoryIsGivenBackInOnePiece) {
  memory_.divisible = false;
  MakeLoadingPool(5 * kPart);
  void* p = Allocate(5 * kPart);
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(p));
  EXPECT_EQ(pool_->Trim(), 5 * kPart);
  EXPECT_TRUE(memory_.discards().empty());
  EXPECT_EQ(memory_.decommits().size(), 1u);
}

TEST_F(ModelPoolTest, EveryRegionIsTrimmed) {
  MakeLoadingPool(3 * kPart, /*address_space=*/4 * kPart);
  void* p = Allocate(3 * kPart);
  void* q = Allocate(3 * kPart);
  ASSERT_EQ(Stats().num_regions, 2u);
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(p));
  ASSERT_TRUE(pool_->Deallocate(q));
  EXPECT_EQ(pool_->Trim(), 6 * kPart);
  EXPECT_EQ(memory_.committed_bytes(), 0u);
  EXPECT_EQ(memory_.decommits().size(), 2u);
  pool_->BeginLoad(true);
  EXPECT_EQ(Allocate(3 * kPart), p);
  EXPECT_EQ(Allocate(3 * kPart), q);
  EXPECT_EQ(Stats().num_regions, 2u);
}

// Memory ahead of need.

TEST_F(ModelPoolTest, PreparedMemoryIsWhatTheNextLoadFinds) {
  MakePool();
  EXPECT_EQ(pool_->Prepare(9 * kPart), 9 * kPart);
  EXPECT_EQ(memory_.committed_bytes(), 9 * kPart);
  EXPECT_EQ(memory_.commits(), 3u);  // piece by piece
  EXPECT_EQ(budget_.asked_for_room, 0);
  EXPECT_EQ(pool_->Prepare(9 * kPart), 0u);
  pool_->BeginLoad(true);
  ASSERT_TRUE(pool_->Reserve(9 * kPart));
  Allocate(9 * kPart);
  EXPECT_EQ(memory_.commits(), 3u);
}

TEST_F(ModelPoolTest, PoolInUseIsNotPrepared) {
  MakeLoadingPool(kPart);
  EXPECT_EQ(pool_->Prepare(4 * kPart), 0u);
  Allocate(kPart);
  pool_->EndLoad();
  EXPECT_EQ(pool_->Prepare(4 * kPart), 0u);
  EXPECT_EQ(memory_.committed_bytes(), kPart);
}

TEST_F(ModelPoolTest, LoadThatBeginsStopsThePreparation) {
  MakePool();
  memory_.on_commit = [this] {
    memory_.on_commit = nullptr;
    pool_->BeginLoad(true);
  };
  EXPECT_EQ(pool_->Prepare(12 * kPart), 4 * kPart);
  EXPECT_EQ(Stats().bytes_reserved, 4 * kPart);
  pool_->EndLoad();
}

TEST_F(ModelPoolTest, PreparationStopsAtTheLimit) {
  MakePool();
  budget_.limit = 10 * kPart;
  EXPECT_EQ(pool_->Prepare(12 * kPart), 8 * kPart);
  EXPECT_EQ(budget_.asked_for_room, 0);
  memory_.refuse_commits = true;
  EXPECT_EQ(pool_->Prepare(10 * kPart), 0u);
  EXPECT_EQ(budget_.charged(), 8 * kPart);
}

TEST_F(ModelPoolTest, StateFollowsLoadsAndTensors) {
  MakePool();
  EXPECT_EQ(Stats().state, PoolState::kStandby);
  EXPECT_TRUE(pool_->idle());
  pool_->BeginLoad(true);
  EXPECT_EQ(Stats().state, PoolState::kLoading);
  void* p = Allocate(64);
  pool_->BeginLoad(false);
  pool_->EndLoad();
  EXPECT_EQ(Stats().state, PoolState::kLoading);
  pool_->EndLoad();
  EXPECT_EQ(Stats().state, PoolState::kLive);
  EXPECT_FALSE(pool_->idle());
  ASSERT_TRUE(pool_->Deallocate(p));
  EXPECT_EQ(Stats().state, PoolState::kStandby);
  pool_->AddFallback(10);
  EXPECT_EQ(Stats().state, PoolState::kLive);
  EXPECT_EQ(Stats().fallback_bytes, 10u);
  pool_->RemoveFallback(10);
  EXPECT_EQ(Stats().state, PoolState::kStandby);
}

TEST_F(ModelPoolTest, IdleTimeRunsFromTheLastUse) {
  MakePool();
  EXPECT_EQ(pool_->idle_since_ns(), clock_.now_ns());
  pool_->BeginLoad(true);
  EXPECT_EQ(pool_->idle_since_ns(), -1);
  void* p = Allocate(64);
  pool_->EndLoad();
  EXPECT_EQ(pool_->idle_since_ns(), -1);
  clock_.AdvanceSeconds(5);
  ASSERT_TRUE(pool_->Deallocate(p));
  const int64_t since = clock_.now_ns();
  clock_.AdvanceSeconds(5);
  EXPECT_EQ(pool_->idle_since_ns(), since);
}

TEST_F(ModelPoolTest, BecomingIdleIsToldOncePerTime) {
  MakeLoadingPool(kPart);
  void* a = Allocate(64);
  void* b = Allocate(64);
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(a));
  EXPECT_EQ(idle_calls_, 0);
  ASSERT_TRUE(pool_->Deallocate(b));
  EXPECT_EQ(idle_calls_, 1);
  EXPECT_FALSE(pool_->Deallocate(b));
  EXPECT_EQ(idle_calls_, 1);
  pool_->AddFallback(1);
  pool_->RemoveFallback(1);
  EXPECT_EQ(idle_calls_, 2);
  pool_->BeginLoad(true);
  pool_->EndLoad();
  EXPECT_EQ(idle_calls_, 3);
}

TEST_F(ModelPoolTest, PoolCanBeTrimmedFromTheIdleCallback) {
  MakeLoadingPool(kPart);
  void* p = Allocate(64);
  size_t trimmed = 0;
  on_idle_ = [&] { trimmed += pool_->Trim(); };
  ASSERT_TRUE(pool_->Deallocate(p));
  EXPECT_EQ(trimmed, 0u);  // the load runs on
  pool_->EndLoad();
  EXPECT_EQ(trimmed, kPart);

  // The same if a tensor without a load finds no room.
  pool_->BeginLoad(false);
  ASSERT_TRUE(pool_->Reserve(kPart));
  on_idle_ = nullptr;
  pool_->EndLoad();
  on_idle_ = [&] { trimmed += pool_->Trim(); };
  Refuse();
  EXPECT_EQ(Allocate(2 * kPart), nullptr);
  EXPECT_EQ(trimmed, 2 * kPart);
}

// Address space.

TEST_F(ModelPoolTest, AfterARefusalWhatIsNeededIsReserved) {
  memory_.max_reserve = 16 * kMiB;
  MakeLoadingPool(kPart, 64 * kMiB);
  EXPECT_EQ(memory_.requests(), (std::vector<size_t>{64 * kMiB, kPart}));
}

TEST_F(ModelPoolTest, ScarceAddressSpaceIsNotAskedForInVain) {
  memory_.scarce = true;
  MakeLoadingPool(3 * kPart, 64 * kMiB);
  EXPECT_EQ(memory_.requests(), (std::vector<size_t>{3 * kPart}));
}

TEST_F(ModelPoolTest, ScarceAddressSpaceIsGivenBackWithTheMemoryInIt) {
  memory_.scarce = true;
  MakeLoadingPool(3 * kPart);
  void* tensor = Allocate(3 * kPart);
  ASSERT_TRUE(pool_->Reserve(2 * kPart));
  EXPECT_TRUE(pool_->Deallocate(tensor));
  pool_->EndLoad();
  const auto go_on = [] { return true; };
  EXPECT_EQ(pool_->Trim(go_on, kPart), kPart);
  EXPECT_EQ(memory_.reserved_bytes(), 4 * kPart);
  EXPECT_EQ(pool_->Trim(go_on, 2 * kPart), 2 * kPart);
  EXPECT_EQ(memory_.reserved_bytes(), 2 * kPart);
  EXPECT_EQ(Stats().num_regions, 1u);
  EXPECT_EQ(pool_->Trim(), 2 * kPart);
  EXPECT_EQ(memory_.reserved_bytes(), 0u);
  EXPECT_EQ(Stats().num_regions, 0u);
  // The next load finds the pool as good as new.
  pool_->BeginLoad(/*new_version=*/true);
  ASSERT_TRUE(pool_->Reserve(3 * kPart));
  tensor = Allocate(3 * kPart);
  ASSERT_NE(tensor, nullptr);
  EXPECT_TRUE(pool_->Contains(tensor));
  EXPECT_TRUE(pool_->Deallocate(tensor));
  pool_->EndLoad();
}

TEST_F(ModelPoolTest, LargerVersionGetsItsSpaceInOnePieceWhereThatIsScarce) {
  memory_.scarce = true;
  MakeLoadingPool(3 * kPart);
  pool_->EndLoad();
  memory_.address_space = 5 * kPart;
  pool_->BeginLoad(/*new_version=*/true);
  ASSERT_TRUE(pool_->Reserve(5 * kPart));
  EXPECT_EQ(Stats().bytes_reserved, 5 * kPart);
  void* tensor = Allocate(5 * kPart);
  ASSERT_NE(tensor, nullptr);
  // Once there is a tensor, nothing is moved.
  memory_.address_space = 7 * kPart;
  ASSERT_TRUE(pool_->Reserve(2 * kPart));
  EXPECT_TRUE(pool_->Contains(tensor));
  EXPECT_EQ(Stats().num_regions, 2u);
  EXPECT_TRUE(pool_->Deallocate(tensor));
  pool_->EndLoad();
}

TEST_F(ModelPoolTest, AddressSpaceThatIsNotScarceIsKept) {
  MakeLoadingPool(3 * kPart, 64 * kMiB);
  pool_->EndLoad();
  EXPECT_EQ(pool_->Trim(), 3 * kPart);
  EXPECT_EQ(memory_.reserved_bytes(), 64 * kMiB);
}

TEST_F(ModelPoolTest, ScarceAddressSpaceThatGetsNoMemoryIsGivenBack) {
  memory_.scarce = true;
  memory_.refuse_commits = true;
  MakePool();
  pool_->BeginLoad(/*new_version=*/true);
  EXPECT_FALSE(pool_->Reserve(kPart));
  EXPECT_EQ(memory_.requests(), (std::vector<size_t>{kPart}));
  EXPECT_EQ(memory_.reserved_bytes(), 0u);
}

TEST_F(ModelPoolTest, RefusedAddressSpaceIsAskedForAgainOnceThereIsRoom) {
  memory_.scarce = true;
  budget_.makes_room = true;
  MakeLoadingPool(3 * kPart);
  EXPECT_EQ(budget_.asked_of_the_system, 0);
  memory_.max_reserve = 0;
  EXPECT_FALSE(pool_->Reserve(kPart));
  EXPECT_EQ(budget_.asked_of_the_system, 1);
}

TEST_F(ModelPoolTest, WhatIsPreparedPieceByPieceIsOneRangeForALargeTensor) {
  memory_.scarce = true;
  MakePool();
  EXPECT_EQ(pool_->Prepare(10 * kPart), 10 * kPart);
  EXPECT_EQ(memory_.requests(), (std::vector<size_t>{10 * kPart}));
  EXPECT_EQ(Stats().largest_free_block, 10 * kPart);
}

TEST_F(ModelPoolTest, NoAddressSpaceAtAllIsARefusal) {
  memory_.max_reserve = 0;
  MakePool();
  pool_->BeginLoad(true);
  EXPECT_FALSE(pool_->Reserve(kPart));
  EXPECT_EQ(Allocate(64), nullptr);
  EXPECT_EQ(budget_.charged(), 0u);
  EXPECT_EQ(Stats().num_regions, 0u);
  EXPECT_EQ(Stats().num_mappings, 0u);
}

TEST_F(ModelPoolTest, FullRangeIsFollowedByAnother) {
  MakeLoadingPool(2 * kPart, /*address_space=*/2 * kPart);
  void* a = Allocate(2 * kPart);
  ASSERT_TRUE(pool_->Reserve(2 * kPart));
  void* b = Allocate(2 * kPart);
  EXPECT_EQ(Stats().num_regions, 2u);
  EXPECT_TRUE(pool_->Contains(a));
  EXPECT_TRUE(pool_->Contains(b));
  pool_->EndLoad();
  ASSERT_TRUE(pool_->Deallocate(a));
  ASSERT_TRUE(pool_->Deallocate(b));
  EXPECT_EQ(pool_->Trim(), 4 * kPart);
  EXPECT_EQ(memory_.committed_bytes(), 0u);
}

TEST_F(ModelPoolTest, LoadLargerThanTheUsualRangeGetsOneOfItsSize) {
  MakeLoadingPool(6 * kPart, /*address_space=*/2 * kPart);
  EXPECT_EQ(Stats().num_regions, 1u);
  EXPECT_EQ(Stats().largest_free_block, 6 * kPart);
}

TEST_F(ModelPoolTest, NeighbouringRegionsDoNotCoalesce) {
  MakeLoadingPool(kPart, /*address_space=*/kPart);
  ASSERT_TRUE(pool_->Reserve(kPart));
  ASSERT_EQ(Stats().num_regions, 2u);
  char* a = static_cast<char*>(Allocate(kPart));
  char* b = static_cast<char*>(Allocate(kPart));
  ASSERT_EQ(b, a + kPart);
  ASSERT_TRUE(pool_->Deallocate(a));
  ASSERT_TRUE(pool_->Deallocate(b));
  EXPECT_EQ(Stats().largest_free_block, kPart);
  Refuse();
  EXPECT_EQ(Allocate(kPart + 64), nullptr);
}

// Threads.

TEST_F(ModelPoolTest, ConcurrentLoadsStayWithinWhatTheyAnnounced) {
  constexpr int kThreads = 4;
  constexpr size_t kTensors = 200;
  constexpr size_t kBytes = 20000;
  constexpr size_t kSum = kTensors * RoundUp(kBytes, kChunkGranularity);
  MakePool();
  std::vector<std::vector<char*>> tensors(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      pool_->BeginLoad(t == 0);
      EXPECT_TRUE(pool_->Reserve(kSum));
      for (size_t i = 0; i < kTensors; ++i) {
        char* p = static_cast<char*>(pool_->Allocate(64, kBytes));
        ASSERT_NE(p, nullptr);
        std::memset(p, t, kBytes);
        tensors[t].push_back(p);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Stats().bytes_in_use, kThreads * kSum);
  EXPECT_LE(Stats().num_mappings, static_cast<size_t>(kThreads));
  EXPECT_LE(Stats().bytes_reserved, kThreads * RoundUp(kSum, kPart));
  for (int t = 0; t < kThreads; ++t) {
    for (char* p : tensors[t]) {
      EXPECT_TRUE(std::all_of(p, p + kBytes, [t](char c) { return c == t; }));
      EXPECT_TRUE(pool_->Deallocate(p));
    }
    pool_->EndLoad();
  }
  EXPECT_TRUE(pool_->idle());
}

TEST_F(ModelPoolTest, TrimsDuringLoadsNeverTakeMemoryInUse) {
  constexpr int kThreads = 3;
  MakePool();
  std::atomic<int> running{kThreads};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 60; ++round) {
        pool_->BeginLoad(false);
        if (round % 2 == 0) {
          EXPECT_TRUE(pool_->Reserve(kPart));
        }
        std::vector<char*> mine;
        for (int i = 0; i < 8; ++i) {
          const size_t bytes = 1000 + 7777 * i;
          char* p = static_cast<char*>(pool_->Allocate(64, bytes));
          ASSERT_NE(p, nullptr);
          std::memset(p, t, bytes);
          mine.push_back(p);
        }
        pool_->EndLoad();
        for (char* p : mine) {
          EXPECT_EQ(*p, t);
          EXPECT_TRUE(pool_->Deallocate(p));
        }
      }
      --running;
    });
  }
  while (running > 0) {
    pool_->Trim();
    const PoolStats stats = Stats();
    EXPECT_LE(stats.bytes_in_use, stats.bytes_reserved);
    std::this_thread::yield();
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Stats().num_tensors, 0u);
  pool_->Trim();
  EXPECT_EQ(memory_.committed_bytes(), 0u);
  EXPECT_EQ(budget_.charged(), 0u);
}

// The end.

TEST_F(ModelPoolTest, DestructionReturnsAllMemory) {
  MakeLoadingPool(kPart, /*address_space=*/kPart);
  ASSERT_TRUE(pool_->Reserve(kPart));
  pool_->EndLoad();
  pool_.reset();
  EXPECT_EQ(memory_.committed_bytes(), 0u);
  EXPECT_EQ(budget_.charged(), 0u);
}

}  // namespace
}  // namespace tf_model_pool
