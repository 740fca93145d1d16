// SPDX-License-Identifier: Apache-2.0
//
// The keeper alone; pool_registry_test.cc tests what it does for loads.

#include "tf_allocator/pool/memory_keeper.h"

#include <atomic>
#include <cstddef>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tf_allocator/pool/pool_table.h"
#include "tf_allocator/pool/testing/fake_system_memory.h"

namespace tf_model_pool {
namespace {

constexpr size_t kPart = kRegionGranularity;

class MemoryKeeperTest : public ::testing::Test {
 protected:
  void Make(const PoolPolicy& policy = PoolPolicy(), bool has_thread = false) {
    MemoryKeeper::Options options;
    options.policy = policy;
    options.now_ns = clock_.AsFunction();
    options.headroom = [this] { return headroom_; };
    options.has_thread = has_thread;
    options.prepare = [this] {
      ++prepared_;
      if (fails_) throw std::bad_alloc();
    };
    keeper_ = std::make_unique<MemoryKeeper>(std::move(options), &table_);
  }

  // A pool in which a version took `parts`; nothing lies in it any more.
  ModelPool* AddStandby(size_t parts) {
    ModelPool* pool = AddLive(parts);
    pool->EndLoad();
    return pool;
  }

  // A pool into which a version of that size is being loaded.
  ModelPool* AddLive(size_t parts) {
    ModelPool::Options options;
    options.address_space = 32 * kMiB;
    options.now_ns = clock_.AsFunction();
    options.on_idle = [] {};
    pools_.push_back(std::make_unique<ModelPool>(&memory_, keeper_.get(),
                                                 std::move(options)));
    ModelPool* pool = pools_.back().get();
    table_.Set(static_cast<uint8_t>(pools_.size()), pool);
    pool->BeginLoad(/*new_version=*/true);
    EXPECT_TRUE(pool->Reserve(parts * kPart));
    return pool;
  }

  FakeSystemMemory memory_;
  FakeClock clock_;
  MemoryHeadroom headroom_;
  std::atomic<int> prepared_{0};
  std::atomic<bool> fails_{false};
  PoolTable table_;
  std::unique_ptr<MemoryKeeper> keeper_;
  std::vector<std::unique_ptr<ModelPool>> pools_;  // gone before the keeper
};

PoolPolicy WithLimit(size_t bytes) {
  PoolPolicy policy;
  policy.limit_bytes = bytes;
  return policy;
}

TEST_F(MemoryKeeperTest, ChargesUpToTheLimitAndAgainAfterARefund) {
  Make(WithLimit(3 * kPart));
  EXPECT_TRUE(keeper_->Charge(2 * kPart, /*make_room=*/false));
  EXPECT_FALSE(keeper_->Charge(2 * kPart, /*make_room=*/false));
  EXPECT_EQ(keeper_->bytes_charged(), 2 * kPart);
  keeper_->Refund(2 * kPart);
  EXPECT_TRUE(keeper_->Charge(3 * kPart, /*make_room=*/false));
}

TEST_F(MemoryKeeperTest, StandbyMemoryMakesRoomForAChargeThatAsksForIt) {
  Make(WithLimit(4 * kPart));
  const ModelPool* standby = AddStandby(3);
  EXPECT_FALSE(keeper_->Charge(2 * kPart, /*make_room=*/false));
  EXPECT_EQ(standby->bytes_reserved(), 3 * kPart);
  EXPECT_TRUE(keeper_->Charge(2 * kPart, /*make_room=*/true));
  EXPECT_LT(standby->bytes_reserved(), 3 * kPart);
  EXPECT_GT(keeper_->trimmed_bytes(), 0u);
  keeper_->Refund(2 * kPart);
}

TEST_F(MemoryKeeperTest, AChargeThatIsRefusedAnywayCostsNoStandbyMemory) {
  Make(WithLimit(6 * kPart));
  AddLive(3);
  const ModelPool* standby = AddStandby(2);
  EXPECT_FALSE(keeper_->Charge(4 * kPart, /*make_room=*/true));
  EXPECT_EQ(standby->bytes_reserved(), 2 * kPart);
}

TEST_F(MemoryKeeperTest, ALimitOfTheSystemCountsAsOne) {
  Make();
  const ModelPool* standby = AddStandby(2);
  headroom_.bytes = kPart;
  EXPECT_FALSE(keeper_->Charge(2 * kPart, /*make_room=*/false));
  EXPECT_EQ(standby->bytes_reserved(), 2 * kPart);
}

TEST_F(MemoryKeeperTest,
       KeepsWhatTheLargestVersionAliveNeedsAndGivesTheRestBack) {
  Make();
  AddLive(2);
  keeper_->NoteNeed();
  const ModelPool* standby = AddStandby(5);
  keeper_->NoteNeed();
  EXPECT_EQ(keeper_->Tidy(), -1);
  EXPECT_EQ(standby->bytes_reserved(), 2 * kPart);
  EXPECT_EQ(keeper_->trimmed_bytes(), 3 * kPart);
}

TEST_F(MemoryKeeperTest, TrimGivesBackAllThatNothingLiesIn) {
  Make();
  const ModelPool* live = AddLive(2);
  const ModelPool* standby = AddStandby(3);
  EXPECT_EQ(keeper_->Trim(), 3 * kPart);
  EXPECT_EQ(standby->bytes_reserved(), 0u);
  EXPECT_EQ(live->bytes_reserved(), 2 * kPart);
}

TEST_F(MemoryKeeperTest, PreparesIfThePolicySaysSo) {
  Make();
  keeper_->Tidy();
  EXPECT_EQ(prepared_, 0);
  PoolPolicy policy;
  policy.prepare = true;
  Make(policy);
  keeper_->Tidy();
  EXPECT_EQ(prepared_, 1);
}

TEST_F(MemoryKeeperTest, ALookThatFailsEndsNeitherProcessNorThread) {
  fails_ = true;
  PoolPolicy policy;
  policy.prepare = true;
  Make(policy, /*has_thread=*/true);
  const auto look = [&] {
    const int before = prepared_;
    keeper_->Wake(/*to_look=*/true);
    while (prepared_ == before) std::this_thread::yield();
  };
  look();
  AddStandby(1);
  look();
  EXPECT_TRUE(memory_.offers().empty());
  fails_ = false;
  look();
  // It does the rest of its work again.
  while (memory_.offers().empty()) std::this_thread::yield();
  keeper_->Stop();
}

}  // namespace
}  // namespace tf_model_pool
