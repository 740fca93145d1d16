// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/arrivals.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace tf_model_pool {
namespace bench {
namespace {

Config ConfigOf(Arrival arrival, std::vector<double> rates, double duration_s,
                uint64_t seed = 1) {
  Config config;
  config.duration_s = duration_s;
  config.seed = seed;
  config.load.arrival = arrival;
  for (const double rate : rates) {
    ModelConfig model;
    model.rate = rate;
    config.models.push_back(model);
  }
  return config;
}

std::vector<int64_t> TimesOf(const std::vector<ScheduledRequest>& schedule,
                             int model) {
  std::vector<int64_t> times;
  for (const ScheduledRequest& request : schedule) {
    if (request.model == model) times.push_back(request.intended_ns);
  }
  return times;
}

TEST(ArrivalsTest, FixedArrivalsAreRateTimesDurationAtEqualDistances) {
  const auto schedule = MakeSchedule(ConfigOf(Arrival::kFixed, {400}, 2.5));
  ASSERT_EQ(schedule.size(), 1000u);
  for (size_t i = 0; i < schedule.size(); ++i) {
    EXPECT_EQ(schedule[i].intended_ns, static_cast<int64_t>(2500000 * (i + 1)));
    EXPECT_EQ(schedule[i].number, static_cast<int32_t>(i));
  }
}

TEST(ArrivalsTest, PoissonArrivalsHaveTheRateAndTheSpreadOfExponentialGaps) {
  const auto times =
      TimesOf(MakeSchedule(ConfigOf(Arrival::kPoisson, {1000}, 100)), 0);
  // The count's standard deviation is the root of its mean.
  EXPECT_NEAR(static_cast<double>(times.size()), 100000, 5 * std::sqrt(1e5));
  double sum = 0;
  double squares = 0;
  for (size_t i = 1; i < times.size(); ++i) {
    const double gap = static_cast<double>(times[i] - times[i - 1]);
    sum += gap;
    squares += gap * gap;
  }
  const double count = static_cast<double>(times.size() - 1);
  const double mean = sum / count;
  const double deviation = std::sqrt(squares / count - mean * mean);
  // Exponential: the deviation equals the mean; of fixed gaps it is 0.
  EXPECT_NEAR(deviation / mean, 1, 0.05);
}

TEST(ArrivalsTest, TheSeedDecides) {
  const auto times = [](uint64_t seed) {
    return TimesOf(MakeSchedule(ConfigOf(Arrival::kPoisson, {50}, 10, seed)),
                   0);
  };
  EXPECT_EQ(times(7), times(7));
  EXPECT_NE(times(7), times(8));
}

TEST(ArrivalsTest, AnotherModelDoesNotChangeTheArrivalsOfTheFirst) {
  const auto alone =
      TimesOf(MakeSchedule(ConfigOf(Arrival::kPoisson, {50}, 10)), 0);
  const auto schedule = MakeSchedule(ConfigOf(Arrival::kPoisson, {50, 80}, 10));
  EXPECT_EQ(TimesOf(schedule, 0), alone);
  EXPECT_NE(TimesOf(schedule, 1), alone);
}

TEST(ArrivalsTest, TheScheduleIsInOrderAndWithinTheRun) {
  const auto schedule =
      MakeSchedule(ConfigOf(Arrival::kPoisson, {300, 0, 200}, 3));
  EXPECT_TRUE(std::is_sorted(schedule.begin(), schedule.end(),
                             [](const auto& a, const auto& b) {
                               return a.intended_ns < b.intended_ns;
                             }));
  EXPECT_GT(schedule.front().intended_ns, 0);
  EXPECT_LE(schedule.back().intended_ns, 3000000000);
  EXPECT_TRUE(TimesOf(schedule, 1).empty());
}

}  // namespace
}  // namespace bench
}  // namespace tf_model_pool
