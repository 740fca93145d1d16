// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/counters.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <thread>

namespace tf_model_pool {
namespace bench {
namespace {

TEST(CountersTest, TouchedPagesAreMinorFaultsOfThreadAndProcess) {
  constexpr size_t kPages = 64;
  constexpr size_t kPage = 4096;
  char* memory =
      static_cast<char*>(mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  madvise(memory, kPages * kPage, MADV_NOHUGEPAGE);
  const ThreadCounters thread = ReadThreadCounters();
  const ProcessCounters process = ReadProcessCounters();
  for (size_t page = 0; page < kPages; ++page) memory[page * kPage] = 1;
  EXPECT_GE(ReadThreadCounters().minor_faults - thread.minor_faults,
            static_cast<int64_t>(kPages));
  EXPECT_GE(ReadProcessCounters().minor_faults - process.minor_faults,
            static_cast<int64_t>(kPages));
  munmap(memory, kPages * kPage);
}

TEST(CountersTest, ASleepIsAVoluntarySwitch) {
  const ThreadCounters before = ReadThreadCounters();
  std::thread([] {}).join();
  EXPECT_GE(ReadThreadCounters().voluntary_switches, before.voluntary_switches);
  EXPECT_GE(ReadThreadCounters().cpu_ns, before.cpu_ns);
}

TEST(CountersTest, TheRunQueueTotalNeverFallsWhenThreadsEnd) {
  RunQueueTotal total;
  int64_t before = total.Read();
  for (int i = 0; i < 10; ++i) {
    std::thread thread([&] { EXPECT_GE(total.Read(), before); });
    thread.join();
    const int64_t now = total.Read();
    EXPECT_GE(now, before);
    before = now;
  }
}

TEST(CountersTest, SchedstatIsParsed) {
  int64_t runqueue_ns = 0;
  EXPECT_TRUE(ParseSchedstat("123 456 7\n", &runqueue_ns));
  EXPECT_EQ(runqueue_ns, 456);
  EXPECT_FALSE(ParseSchedstat("", &runqueue_ns));
  EXPECT_FALSE(ParseSchedstat("schedstats are off", &runqueue_ns));
}

TEST(CountersTest, TheCpuLineIsParsed) {
  MachineCounters counters;
  EXPECT_TRUE(ParseCpuLine("cpu  1 2 3 4 5 6 7 8 9 10", 10000000, &counters));
  EXPECT_EQ(counters.busy_ns, (1 + 2 + 3 + 6 + 7) * 10000000);
  EXPECT_EQ(counters.steal_ns, 8 * 10000000);
  EXPECT_FALSE(ParseCpuLine("cpu0 1 2", 10000000, &counters));
  EXPECT_FALSE(ParseCpuLine("intr 1 2 3 4 5 6 7 8", 10000000, &counters));
}

TEST(CountersTest, ResidentMemoryIsThere) {
  EXPECT_GT(ReadResidentBytes(), 0);
  EXPECT_GE(ReadProcessCounters().peak_resident_bytes, 1 << 20);
}

}  // namespace
}  // namespace bench
}  // namespace tf_model_pool
