// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/restore/rate_limit.h"

#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace tf_model_pool {
namespace {

using std::chrono::milliseconds;

constexpr uint64_t kPerSecond = 1000;
const RateLimit::Clock::time_point kStart =
    RateLimit::Clock::time_point() + std::chrono::hours(1);

TEST(RateLimitTest, EachWaitsForThoseBefore) {
  RateLimit limit(kPerSecond);
  EXPECT_EQ(limit.Take(500, kStart), kStart);
  EXPECT_EQ(limit.Take(250, kStart), kStart + milliseconds(500));
  EXPECT_EQ(limit.Take(1, kStart + milliseconds(100)),
            kStart + milliseconds(750));
}

TEST(RateLimitTest, SlowerThanTheLimitIsNotHeldUp) {
  RateLimit limit(kPerSecond);
  for (int i = 0; i < 3; ++i) {
    const auto now = kStart + milliseconds(200 * i);
    EXPECT_EQ(limit.Take(100, now), now);
  }
}

TEST(RateLimitTest, TimeInWhichNothingWasReadIsNotSavedUp) {
  RateLimit limit(kPerSecond);
  limit.Take(100, kStart);
  const auto later = kStart + std::chrono::hours(1);
  EXPECT_EQ(limit.Take(100, later), later);
  EXPECT_EQ(limit.Take(100, later), later + milliseconds(100));
}

TEST(RateLimitTest, ThreadsShareIt) {
  RateLimit limit(kPerSecond);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&limit] {
      for (int j = 0; j < 250; ++j) limit.Take(10, kStart);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(limit.Take(10, kStart), kStart + std::chrono::seconds(10));
}

}  // namespace
}  // namespace tf_model_pool
