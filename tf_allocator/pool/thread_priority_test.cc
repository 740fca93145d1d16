// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/thread_priority.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "gtest/gtest.h"

namespace tf_model_pool {
namespace {

struct Priority {
  int nice;
  int policy;
};

Priority OfThisThread() {
  const auto tid = static_cast<id_t>(syscall(SYS_gettid));
  return {getpriority(PRIO_PROCESS, tid), sched_getscheduler(0)};
}

Priority After(Settings::LoadPriority priority) {
  Priority seen{};
  std::thread([&] {
    LowerThreadPriority(priority);
    seen = OfThisThread();
  }).join();
  return seen;
}

TEST(ThreadPriorityTest, LowersTheCallingThreadAlone) {
  const Priority before = OfThisThread();
  EXPECT_EQ(After(Settings::LoadPriority::kLow).nice, kLowNice);
  EXPECT_EQ(After(Settings::LoadPriority::kAuto).nice, kLowNice);
  EXPECT_EQ(After(Settings::LoadPriority::kIdle).policy, SCHED_IDLE);
  EXPECT_EQ(OfThisThread().nice, before.nice);
  EXPECT_EQ(OfThisThread().policy, before.policy);
}

TEST(ThreadPriorityTest, LowRaisesNothing) {
  int nice = 0;
  std::thread([&] {
    const auto tid = static_cast<id_t>(syscall(SYS_gettid));
    setpriority(PRIO_PROCESS, tid, 15);
    LowerThreadPriority(Settings::LoadPriority::kLow);
    nice = OfThisThread().nice;
  }).join();
  EXPECT_EQ(nice, 15);
}

TEST(ThreadPriorityTest, NormalChangesNothing) {
  const Priority before = OfThisThread();
  EXPECT_EQ(After(Settings::LoadPriority::kNormal).nice, before.nice);
  EXPECT_EQ(After(Settings::LoadPriority::kNormal).policy, before.policy);
}

}  // namespace
}  // namespace tf_model_pool
