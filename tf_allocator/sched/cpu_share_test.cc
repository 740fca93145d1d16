// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/sched/cpu_share.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

namespace tf_model_pool {
namespace {

constexpr int64_t kMs = 1'000'000;

// A machine whose load is said, not measured.
class Machine {
 public:
  explicit Machine(double cpus) { reading_.cpus = cpus; }

  void set_quota(double quota) { reading_.quota = quota; }

  // Time goes by, with as many CPUs in use.
  CpuReading After(int64_t ns, double others, double loads) {
    const auto used = [ns](double cpus) {
      return static_cast<int64_t>(cpus * static_cast<double>(ns));
    };
    reading_.now_ns += ns;
    reading_.cpus_busy_ns += used(others + loads);
    reading_.quota_used_ns += used(others + loads);
    reading_.loads_ns += used(loads);
    return reading_;
  }

 private:
  CpuReading reading_;
};

// The CPUs that loads may use after a second of that.
double ShareWith(Machine machine, double others, double loads) {
  CpuShare share;
  for (int i = 0; i < 11; ++i) {
    share.Look(machine.After(CpuShare::kLookNs, others, loads));
  }
  return share.share();
}

constexpr double kPart = CpuShare::kOfWhatIsLeft;

TEST(CpuShareTest, LoadsGetAPartOfWhatOthersLeave) {
  EXPECT_NEAR(ShareWith(Machine(2), 0.8, 0.3), 1.2 * kPart, 0.01);
  EXPECT_NEAR(ShareWith(Machine(16), 4, 0), 12 * kPart, 0.01);
}

TEST(CpuShareTest, WhatLoadsUseThemselvesIsNotTakenForOthers) {
  EXPECT_NEAR(ShareWith(Machine(2), 0.8, 0), ShareWith(Machine(2), 0.8, 0.9),
              0.01);
}

TEST(CpuShareTest, OnABusyMachineLoadsKeepAFloor) {
  EXPECT_NEAR(ShareWith(Machine(2), 2, 0.2), 0.25, 0.01);
  EXPECT_NEAR(ShareWith(Machine(1), 1, 0.1), 0.125, 0.01);
  EXPECT_NEAR(ShareWith(Machine(64), 64, 0), 0.25, 0.01);
}

TEST(CpuShareTest, AQuotaCountsAsCpusDo) {
  Machine machine(8);
  machine.set_quota(1);
  EXPECT_NEAR(ShareWith(machine, 0.4, 0.1), 0.6 * kPart, 0.01);
  machine.set_quota(0.5);
  EXPECT_NEAR(ShareWith(machine, 0.5, 0), 0.0625, 0.01);
}

TEST(CpuShareTest, BeginsAtTheFloorUntilItHasSeenMore) {
  CpuShare share;
  Machine machine(2);
  share.Look(machine.After(kMs, 0, 0));
  EXPECT_NEAR(share.share(), 0.25, 0.001);
  share.Look(machine.After(CpuShare::kLookNs / 2, 0, 0));
  EXPECT_NEAR(share.share(), 0.25, 0.001);
  share.Look(machine.After(CpuShare::kLookNs / 2, 0, 0));
  EXPECT_NEAR(share.share(), 2 * kPart, 0.001);
}

TEST(CpuShareTest, LoadsHaveTheFloorWhileAQuotaIsNearlyUsedUp) {
  Machine machine(2);
  machine.set_quota(1);
  CpuShare share;
  for (int i = 0; i < 60; ++i) share.Look(machine.After(5 * kMs, 0.4, 0));
  EXPECT_NEAR(share.share(), 0.6 * kPart, 0.01);
  // 40 ms of 100 so far; a burst takes 1.9 CPUs.
  for (int i = 0; i < 8; ++i) share.Look(machine.After(5 * kMs, 1.9, 0));
  EXPECT_NEAR(share.share(), 0.125, 0.001);
  // A period later it is as if it had not been.
  for (int i = 0; i < 60; ++i) share.Look(machine.After(5 * kMs, 0.4, 0));
  EXPECT_NEAR(share.share(), 0.6 * kPart, 0.05);
}

TEST(CpuShareTest, WithoutAQuotaNothingIsShort) {
  CpuShare share;
  Machine machine(2);
  for (int i = 0; i < 50; ++i) share.Look(machine.After(5 * kMs, 2, 0));
  for (int i = 0; i < 200; ++i) share.Look(machine.After(5 * kMs, 1, 0));
  EXPECT_NEAR(share.share(), kPart, 0.01);
}

// A thread that always wants to run, on a CPU of its own.
struct Thread {
  int64_t now_ns = 0;
  int64_t cpu_ns = 0;
  Turns turns;
  int64_t longest_turn_ns = 0;

  Thread() { turns.Begin(0, 0); }
  // For `ns`, looked at once a turn.
  void Run(int64_t ns, double share) {
    const int64_t end = now_ns + ns;
    int64_t turn = 0;
    while (now_ns < end) {
      now_ns += Turns::kTurnNs;
      cpu_ns += Turns::kTurnNs;
      turn += Turns::kTurnNs;
      longest_turn_ns = std::max(longest_turn_ns, turn);
      if (const int64_t pause = turns.Pause(now_ns, cpu_ns, share)) {
        now_ns += pause;
        turn = 0;
      }
    }
  }
};

TEST(TurnsTest, AThreadUsesItsShareInShortTurns) {
  for (const double share : {0.1, 0.25, 0.5, 0.8}) {
    Thread thread;
    thread.Run(1000 * kMs, share);
    const double used =
        static_cast<double>(thread.cpu_ns) / static_cast<double>(thread.now_ns);
    EXPECT_NEAR(used, share, 0.02) << share;
    EXPECT_LE(thread.longest_turn_ns, 2 * Turns::kTurnNs) << share;
  }
}

TEST(TurnsTest, AShareOfAWholeCpuMeansNoPauses) {
  Thread thread;
  thread.Run(100 * kMs, 1);
  EXPECT_EQ(thread.cpu_ns, thread.now_ns);
  thread.Run(100 * kMs, 7);
  EXPECT_EQ(thread.cpu_ns, thread.now_ns);
}

TEST(TurnsTest, WaitingForACpuCountsAsAPause) {
  Turns turns;
  turns.Begin(0, 0);
  // It got a millisecond after it had waited for three.
  EXPECT_EQ(turns.Pause(4 * kMs, kMs, 0.25), 0);
  EXPECT_GT(turns.Pause(5 * kMs, 2 * kMs, 0.25), 0);
}

TEST(TurnsTest, LittleIsSavedUp) {
  Turns turns;
  turns.Begin(0, 0);
  EXPECT_EQ(turns.Pause(1000 * kMs, 0, 0.5), 0);
  EXPECT_GT(turns.Pause(1004 * kMs, 4 * kMs, 0.5), 0);
}

TEST(TurnsTest, AThreadThatWaitsIsLeftAlone) {
  Turns turns;
  turns.Begin(0, 0);
  // It has used far too much, and then waits.
  EXPECT_GT(turns.Pause(10 * kMs, 10 * kMs, 0.25), 0);
  EXPECT_EQ(turns.Pause(14 * kMs, 10 * kMs, 0.25), 0);
  // Its debt is due when it goes on.
  EXPECT_GT(turns.Pause(15 * kMs, 11 * kMs, 0.25), 0);
}

TEST(TurnsTest, NoPauseIsLongerThanItsBound) {
  Turns turns;
  turns.Begin(0, 0);
  EXPECT_EQ(turns.Pause(500 * kMs, 500 * kMs, 0.1), Turns::kLongestNs);
}

TEST(TurnsTest, WhatIsOwedHasNoBoundAndStaysOwed) {
  Turns turns;
  turns.Begin(0, 0);
  EXPECT_EQ(turns.Owed(0.5), 0);
  turns.Pause(100 * kMs, 100 * kMs, 0.5);
  EXPECT_EQ(turns.Owed(0.5), 100 * kMs);
  // Hardly any CPU time since: no signal, but it owes what is left.
  EXPECT_EQ(turns.Pause(140 * kMs, 100 * kMs, 0.5), 0);
  EXPECT_EQ(turns.Owed(0.5), 60 * kMs);
  turns.Pause(200 * kMs, 100 * kMs, 0.5);
  EXPECT_EQ(turns.Owed(0.5), 0);
}

TEST(ParseBusyNsTest, SumsTheCpusThatCount) {
  const std::string stat =
      "cpu  110 0 10 1000 5 0 0 0 0 0\n"
      "cpu0 100 0 5 500 5 0 0 1 50 0\n"
      "cpu1 10 2 5 500 0 3 4 0 0 0\n"
      "intr 12345\n";
  const auto all = [](int) { return true; };
  const auto second = [](int cpu) { return cpu == 1; };
  EXPECT_EQ(ParseBusyNs(stat, all, 100), (106 + 24) * 10 * kMs);
  EXPECT_EQ(ParseBusyNs(stat, second, 100), 24 * 10 * kMs);
  EXPECT_EQ(ParseBusyNs("", all, 100), 0);
}

TEST(ParseQuotaTest, ReadsBothVersions) {
  EXPECT_DOUBLE_EQ(ParseQuotaV2("150000 100000\n"), 1.5);
  EXPECT_DOUBLE_EQ(ParseQuotaV1("70000\n", "100000\n"), 0.7);
  for (const char* none : {"max 100000\n", "", "100000", "0 100000", "x y"}) {
    EXPECT_TRUE(std::isinf(ParseQuotaV2(none))) << none;
  }
  EXPECT_TRUE(std::isinf(ParseQuotaV1("-1\n", "100000\n")));
}

TEST(CpuReaderTest, TimeAndUseOnlyGrow) {
  const CpuReader reader;
  CpuReading before, after;
  reader.Read(/*quota_only=*/false, &before);
  reader.Read(/*quota_only=*/false, &after);
  EXPECT_GE(before.cpus, 1);
  EXPECT_GT(before.cpus_busy_ns, 0);
  EXPECT_GE(after.now_ns, before.now_ns);
  EXPECT_GE(after.cpus_busy_ns, before.cpus_busy_ns);
  EXPECT_GE(after.quota_used_ns, before.quota_used_ns);
  EXPECT_EQ(std::isinf(after.quota), !reader.has_quota());
}

}  // namespace
}  // namespace tf_model_pool
