// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/cpu_idle_share.h"

#include <gtest/gtest.h>

namespace tf_model_pool {
namespace {

constexpr char kStat[] =
    "cpu  1110 0 0 2220 0 0 0 0 0 0\n"
    "cpu0 1 2 3 40 50 6 7 8 900 900\n"
    "cpu1 10 0 0 20 0 0 0 0 0 0\n"
    "cpu12 100 0 0 200 0 0 0 0 0 0\n"
    "intr 77 1 2 3\n"
    "cpufreq 9 9 9 9 9\n";

TEST(CpuIdleShareTest, SumsTheLinesOfTheCpusThatCount) {
  const CpuTicks first = ParseCpuTicks(kStat, [](int cpu) { return cpu == 0; });
  EXPECT_EQ(first.idle, 90u);
  EXPECT_EQ(first.all, 117u);
  const CpuTicks others =
      ParseCpuTicks(kStat, [](int cpu) { return cpu != 0; });
  EXPECT_EQ(others.idle, 220u);
  EXPECT_EQ(others.all, 330u);
}

TEST(CpuIdleShareTest, TextWithoutCpusGivesZero) {
  for (const char* text : {"", "cpu", "cpux 1 2 3 4", "cpu0"}) {
    const CpuTicks ticks = ParseCpuTicks(text, [](int) { return true; });
    EXPECT_EQ(ticks.all, 0u) << text;
  }
}

TEST(CpuIdleShareTest, ShareIsOfTheTicksInBetween) {
  EXPECT_DOUBLE_EQ(IdleShare({100, 1000}, {125, 1100}), 0.25);
  EXPECT_DOUBLE_EQ(IdleShare({100, 1000}, {100, 1100}), 0);
}

TEST(CpuIdleShareTest, NothingKnownIsNotBusy) {
  EXPECT_DOUBLE_EQ(IdleShare({100, 1000}, {100, 1000}), 1);
  EXPECT_DOUBLE_EQ(IdleShare({100, 1000}, {99, 1100}), 1);
  EXPECT_DOUBLE_EQ(IdleShare({}, {}), 1);
}

TEST(UseOfIdleCpusTest, IsAllOfThemWhereNothingElseRuns) {
  EXPECT_EQ(UseOfIdleCpus(1, 2).threads, 2);
  EXPECT_EQ(UseOfIdleCpus(0.96, 2).threads, 2);
  EXPECT_EQ(UseOfIdleCpus(1, 1).threads, 1);
  EXPECT_FALSE(UseOfIdleCpus(1, 1).pauses);
  EXPECT_FALSE(UseOfIdleCpus(0.96, 2).pauses);
}

TEST(UseOfIdleCpusTest, LeavesOneToRequests) {
  const CpuUse many = UseOfIdleCpus(0.6, 16);
  EXPECT_EQ(many.threads, 8);
  EXPECT_FALSE(many.pauses);
  const CpuUse few = UseOfIdleCpus(0.6, 4);
  EXPECT_EQ(few.threads, 1);
  EXPECT_FALSE(few.pauses);
}

TEST(UseOfIdleCpusTest, PausesWhereThereIsNoneToLeave) {
  for (const double share : {0.6, 0.3, 0.0}) {
    const CpuUse use = UseOfIdleCpus(share, 2);
    EXPECT_EQ(use.threads, 1);
    EXPECT_TRUE(use.pauses);
  }
  EXPECT_TRUE(UseOfIdleCpus(0, 1).pauses);
}

TEST(CpuIdleShareTest, ThisMachineHasTicks) {
  const CpuTicks ticks = ReadCpuTicks();
  EXPECT_GT(ticks.all, 0u);
  EXPECT_LE(ticks.idle, ticks.all);
}

}  // namespace
}  // namespace tf_model_pool
