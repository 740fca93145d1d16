// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/open_loop.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "tf_allocator/bench/counters.h"

namespace tf_model_pool {
namespace bench {
namespace {

constexpr int64_t kMillisecond = 1000000;
constexpr int64_t kMinute = 60000 * kMillisecond;

std::vector<ScheduledRequest> EveryMillisecond(int count) {
  std::vector<ScheduledRequest> schedule;
  for (int i = 0; i < count; ++i) {
    schedule.push_back({(i + 1) * kMillisecond, 0, i});
  }
  return schedule;
}

OpenLoop::Options Threads(int count) {
  OpenLoop::Options options;
  options.request_threads = count;
  return options;
}

TEST(OpenLoopTest, EveryRequestIsServedOnceAndInOrder) {
  const auto schedule = EveryMillisecond(50);
  OpenLoop load(Threads(3), &schedule,
                [](const ScheduledRequest& request, RequestRecord* record) {
                  record->status = 0;
                  record->checksum = request.number;
                });
  load.Start(MonotonicNs());
  load.Join(kMinute);
  const auto served = load.Served();
  ASSERT_EQ(served.size(), schedule.size());
  EXPECT_EQ(load.dropped(), 0u);
  EXPECT_TRUE(load.Finished());
  for (size_t i = 0; i < served.size(); ++i) {
    EXPECT_EQ(served[i].checksum, static_cast<double>(i));
    EXPECT_EQ(served[i].intended_ns, schedule[i].intended_ns);
  }
}

// Coordinated omission: a generator that waits for answers would send the
// requests that fall into a stall only after it, and see one slow request.
TEST(OpenLoopTest, AStallShowsInAllRequestsThatAreDueInIt) {
  const auto schedule = EveryMillisecond(30);
  int64_t zero_ns = 0;
  std::promise<void> stall_began;
  std::promise<void> all_sent;
  std::shared_future<void> go = all_sent.get_future().share();
  OpenLoop load(Threads(1), &schedule,
                [&](const ScheduledRequest& request, RequestRecord* record) {
                  if (request.number == 10) {
                    stall_began.set_value();
                    go.wait();
                  }
                  record->end_ns = MonotonicNs() - zero_ns;
                  record->status = 0;
                });
  zero_ns = MonotonicNs();
  load.Start(zero_ns);
  // The only server stands still until every request is due.
  stall_began.get_future().wait();
  while (MonotonicNs() - zero_ns < 31 * kMillisecond) {
  }
  const int64_t stall_end_ns = MonotonicNs() - zero_ns;
  all_sent.set_value();
  load.Join(kMinute);
  const auto served = load.Served();
  ASSERT_EQ(served.size(), schedule.size());
  for (size_t i = 10; i < served.size(); ++i) {
    EXPECT_EQ(served[i].intended_ns, schedule[i].intended_ns);
    EXPECT_GE(served[i].end_ns - served[i].intended_ns,
              stall_end_ns - schedule[i].intended_ns);
  }
}

TEST(OpenLoopTest, RequestsThatNobodyServesInTimeAreDroppedAndCounted) {
  const auto schedule = EveryMillisecond(5);
  std::promise<void> began;
  std::promise<void> release;
  std::shared_future<void> go = release.get_future().share();
  OpenLoop load(Threads(1), &schedule,
                [&](const ScheduledRequest& request, RequestRecord* record) {
                  if (request.number == 0) {
                    began.set_value();
                    go.wait();
                  }
                  record->status = 0;
                });
  const int64_t zero_ns = MonotonicNs();
  load.Start(zero_ns);
  began.get_future().wait();
  while (MonotonicNs() - zero_ns < 6 * kMillisecond) {
  }
  std::thread join([&] { load.Join(0); });
  // The one that is being served is waited for.
  while (!load.Abandoned()) {
  }
  release.set_value();
  join.join();
  EXPECT_EQ(load.Served().size(), 1u);
  EXPECT_GE(load.dropped(), 1u);
  EXPECT_LE(load.dropped(), 4u);
}

TEST(OpenLoopTest, AfterAStopNothingMoreIsSent) {
  // GIVEN a request far in the future
  std::vector<ScheduledRequest> schedule = EveryMillisecond(1);
  schedule.push_back({60 * kMinute, 0, 1});
  std::promise<void> first;
  OpenLoop load(Threads(2), &schedule,
                [&](const ScheduledRequest&, RequestRecord* record) {
                  record->status = 0;
                  first.set_value();
                });
  load.Start(MonotonicNs());
  first.get_future().wait();
  // WHEN sending stops
  load.StopSending();
  load.Join(kMinute);
  // THEN what was sent is kept and nothing counts as dropped
  EXPECT_EQ(load.Served().size(), 1u);
  EXPECT_EQ(load.dropped(), 0u);
}

TEST(OpenLoopTest, AnEmptyScheduleEnds) {
  const std::vector<ScheduledRequest> schedule;
  OpenLoop load(Threads(2), &schedule,
                [](const ScheduledRequest&, RequestRecord*) {});
  load.Start(MonotonicNs());
  load.Join(kMinute);
  EXPECT_TRUE(load.Served().empty());
}

}  // namespace
}  // namespace bench
}  // namespace tf_model_pool
