// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/timeline.h"

#include <gtest/gtest.h>

namespace tf_model_pool {
namespace bench {
namespace {

using Action = TimelineEntry::Action;
using Kind = TimelineEvent::Kind;

constexpr int64_t kSecond = 1000000000;

TimelineEntry Entry(double at_s, Action action, double duration_s = 0) {
  TimelineEntry entry;
  entry.at_s = at_s;
  entry.action = action;
  entry.duration_s = duration_s;
  return entry;
}

std::vector<TimelineEvent> EventsOf(std::vector<TimelineEntry> entries) {
  Config config;
  config.duration_s = 10;
  config.timeline = std::move(entries);
  return MakeTimeline(config);
}

std::vector<Kind> KindsOf(const std::vector<TimelineEvent>& events) {
  std::vector<Kind> kinds;
  for (const TimelineEvent& event : events) kinds.push_back(event.kind);
  return kinds;
}

TEST(TimelineTest, ABurnBecomesItsBeginAndItsEnd) {
  const auto events =
      EventsOf({Entry(1, Action::kBurnCpu, 3), Entry(2, Action::kUpdate)});
  EXPECT_EQ(KindsOf(events), (std::vector<Kind>{Kind::kBurnBegin, Kind::kUpdate,
                                                Kind::kBurnEnd}));
  EXPECT_EQ(events[2].at_ns, 4 * kSecond);
  EXPECT_EQ(events[2].entry, 0u);
}

TEST(TimelineTest, ABurnEndsWithTheRun) {
  EXPECT_EQ(EventsOf({Entry(9, Action::kBurnStream, 5)})[1].at_ns,
            10 * kSecond);
}

TEST(TimelineTest, AStallIsKnownBeforeTheUpdateOfTheSameMoment) {
  EXPECT_EQ(
      KindsOf(EventsOf({Entry(1, Action::kUpdate), Entry(1, Action::kStall)})),
      (std::vector<Kind>{Kind::kStall, Kind::kUpdate}));
}

TEST(TimelineTest, BurnsThatOverlapNeedSeveralBurnersAndOthersShareOne) {
  EXPECT_EQ(BurnersNeeded(EventsOf({Entry(1, Action::kUpdate)})), 0u);
  EXPECT_EQ(BurnersNeeded(EventsOf({Entry(1, Action::kBurnCpu, 1),
                                    Entry(2, Action::kBurnStream, 1),
                                    Entry(5, Action::kBurnCpu, 1)})),
            1u);
  const auto events = EventsOf(
      {Entry(1, Action::kBurnCpu, 4), Entry(2, Action::kBurnStream, 1)});
  EXPECT_EQ(BurnersNeeded(events), 2u);
  EXPECT_EQ(events[0].burner, 0u);
  EXPECT_EQ(events[1].burner, 1u);
  EXPECT_EQ(events[2].burner, 1u);
  EXPECT_EQ(events[3].burner, 0u);
}

}  // namespace
}  // namespace bench
}  // namespace tf_model_pool
