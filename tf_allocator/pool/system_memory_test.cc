// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/system_memory.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tf_allocator/pool/control_group.h"
#include "tf_allocator/pool/testing/child.h"

namespace tf_model_pool {
namespace {

constexpr size_t kPart = kRegionGranularity;
constexpr MappedMemory::Options kSmallPages = {/*huge_pages=*/false,
                                               /*prefault=*/true};
constexpr MappedMemory::Options kLazy = {/*huge_pages=*/false,
                                         /*prefault=*/false};

size_t PageSize() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

size_t ResidentPages(void* address, size_t bytes) {
  std::vector<unsigned char> pages(bytes / PageSize());
  EXPECT_EQ(mincore(address, bytes, pages.data()), 0);
  return static_cast<size_t>(
      std::count_if(pages.begin(), pages.end(),
                    [](unsigned char page) { return (page & 1) != 0; }));
}

// Page faults of this thread while it writes to every page. Sanitizers would
// fault on their shadow of it.
__attribute__((no_sanitize("address", "thread"))) long FaultsOfTouching(
    void* address, size_t bytes) {
  const size_t page = PageSize();
  rusage before;
  rusage after;
  getrusage(RUSAGE_THREAD, &before);
  for (size_t i = 0; i < bytes; i += page) {
    static_cast<volatile char*>(address)[i] = 1;
  }
  getrusage(RUSAGE_THREAD, &after);
  return after.ru_minflt - before.ru_minflt;
}

// Address space of the process, in pages.
size_t AddressSpacePages() {
  size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages;
}

bool IsZero(const void* address, size_t bytes) {
  const char* p = static_cast<const char*>(address);
  return std::all_of(p, p + bytes, [](char c) { return c == 0; });
}

class MappedMemoryTest
    : public ::testing::TestWithParam<MappedMemory::Options> {};

INSTANTIATE_TEST_SUITE_P(AllOptions, MappedMemoryTest,
                         ::testing::Values(MappedMemory::Options{false, false},
                                           MappedMemory::Options{false, true},
                                           MappedMemory::Options{true, false},
                                           MappedMemory::Options{true, true}));

TEST_P(MappedMemoryTest, ReservationsAreAlignedToTheGranularity) {
  MappedMemory memory(GetParam());
  std::vector<void*> ranges;
  for (size_t parts = 1; parts <= 5; ++parts) {
    void* range = memory.Reserve(parts * kPart);
    ASSERT_NE(range, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(range) % kPart, 0u);
    ranges.push_back(range);
  }
  for (size_t parts = 1; parts <= 5; ++parts) {
    memory.Unreserve(ranges[parts - 1], parts * kPart);
  }
}

TEST_P(MappedMemoryTest, ReservedRangeTakesNoMemory) {
  MappedMemory memory(GetParam());
  void* range = memory.Reserve(4 * kPart);
  ASSERT_NE(range, nullptr);
  EXPECT_EQ(ResidentPages(range, 4 * kPart), 0u);
  memory.Unreserve(range, 4 * kPart);
}

TEST_P(MappedMemoryTest, ReservationTakesNoMoreAddressSpaceThanAsked) {
  MappedMemory memory(GetParam());
  AddressSpacePages();  // so that what reading takes is there already
  const size_t before = AddressSpacePages();
  void* range = memory.Reserve(4 * kPart);
  ASSERT_NE(range, nullptr);
  EXPECT_EQ(AddressSpacePages() - before, 4 * kPart / PageSize());
  memory.Unreserve(range, 4 * kPart);
  EXPECT_EQ(AddressSpacePages(), before);
}

TEST_P(MappedMemoryTest, CommittedPartIsZeroAndWritable) {
  MappedMemory memory(GetParam());
  char* range = static_cast<char*>(memory.Reserve(4 * kPart));
  ASSERT_NE(range, nullptr);
  ASSERT_TRUE(memory.Commit(range + kPart, 2 * kPart));
  EXPECT_TRUE(IsZero(range + kPart, 2 * kPart));
  std::memset(range + kPart, 0x5a, 2 * kPart);
  memory.Unreserve(range, 4 * kPart);
}

TEST_P(MappedMemoryTest, DecommitGivesThePagesBack) {
  MappedMemory memory(GetParam());
  char* range = static_cast<char*>(memory.Reserve(2 * kPart));
  ASSERT_NE(range, nullptr);
  ASSERT_TRUE(memory.Commit(range, 2 * kPart));
  std::memset(range, 0x5a, 2 * kPart);
  ASSERT_EQ(ResidentPages(range, 2 * kPart), 2 * kPart / PageSize());
  memory.Decommit(range, 2 * kPart);
  EXPECT_EQ(ResidentPages(range, 2 * kPart), 0u);
  memory.Unreserve(range, 2 * kPart);
}

TEST_P(MappedMemoryTest, DiscardedPartIsUsableAndZeroAgain) {
  MappedMemory memory(GetParam());
  char* range = static_cast<char*>(memory.Reserve(3 * kPart));
  ASSERT_NE(range, nullptr);
  ASSERT_TRUE(memory.Commit(range, 3 * kPart));
  std::memset(range, 0x5a, 3 * kPart);
  memory.Discard(range + kPart, kPart);
  EXPECT_EQ(ResidentPages(range + kPart, kPart), 0u);
  EXPECT_EQ(ResidentPages(range, 3 * kPart), 2 * kPart / PageSize());
  EXPECT_TRUE(IsZero(range + kPart, kPart));
  EXPECT_EQ(range[kPart - 1], 0x5a);
  EXPECT_EQ(range[2 * kPart], 0x5a);
  memory.Unreserve(range, 3 * kPart);
}

TEST_P(MappedMemoryTest, RecommittedPartIsZeroAgain) {
  MappedMemory memory(GetParam());
  char* range = static_cast<char*>(memory.Reserve(2 * kPart));
  ASSERT_NE(range, nullptr);
  ASSERT_TRUE(memory.Commit(range, 2 * kPart));
  std::memset(range, 0x5a, 2 * kPart);
  memory.Decommit(range, 2 * kPart);
  ASSERT_TRUE(memory.Commit(range, 2 * kPart));
  EXPECT_TRUE(IsZero(range, 2 * kPart));
  memory.Unreserve(range, 2 * kPart);
}

TEST(MappedMemoryPrefaultTest, CommitTakesEveryPageFaultItself) {
  MappedMemory memory(kSmallPages);
  void* range = memory.Reserve(2 * kPart);
  ASSERT_NE(range, nullptr);
  ASSERT_TRUE(memory.Commit(range, 2 * kPart));
  EXPECT_EQ(ResidentPages(range, 2 * kPart), 2 * kPart / PageSize());
  EXPECT_EQ(FaultsOfTouching(range, 2 * kPart), 0);
  memory.Unreserve(range, 2 * kPart);
}

TEST(MappedMemoryPrefaultTest, WithoutItTheFaultsAreTakenByTheFirstUse) {
  MappedMemory memory(kLazy);
  void* range = memory.Reserve(2 * kPart);
  ASSERT_NE(range, nullptr);
  ASSERT_TRUE(memory.Commit(range, 2 * kPart));
  EXPECT_EQ(ResidentPages(range, 2 * kPart), 0u);
  EXPECT_GT(FaultsOfTouching(range, 2 * kPart), 0);
  memory.Unreserve(range, 2 * kPart);
}

TEST(MappedMemoryPrefaultTest, LargePartsAreFaultedInToTheirEnd) {
  MappedMemory memory(kSmallPages);
  constexpr size_t kBytes = 35 * kPart;
  void* range = memory.Reserve(kBytes);
  ASSERT_NE(range, nullptr);
  ASSERT_TRUE(memory.Commit(range, kBytes));
  EXPECT_EQ(ResidentPages(range, kBytes), kBytes / PageSize());
  memory.Unreserve(range, kBytes);
}

TEST(MappedMemoryPrefaultTest, WhoeverFaultsMemoryInMayWaitBeforeEachPiece) {
  static int calls;
  calls = 0;
  const BeforeFaults before = CallBeforeFaults([] { ++calls; });
  for (const bool prefault : {true, false}) {
    MappedMemory memory({/*huge_pages=*/false, prefault});
    void* range = memory.Reserve(5 * kPart);
    ASSERT_NE(range, nullptr);
    ASSERT_TRUE(memory.Commit(range, 5 * kPart));
    memory.Unreserve(range, 5 * kPart);
  }
  CallBeforeFaults(before);
  EXPECT_EQ(calls, 5);
}

TEST_P(MappedMemoryTest, OfferedMemoryStaysUsable) {
  MappedMemory memory(GetParam());
  char* range = static_cast<char*>(memory.Reserve(2 * kPart));
  ASSERT_NE(range, nullptr);
  ASSERT_TRUE(memory.Commit(range, 2 * kPart));
  std::memset(range, 0x5a, 2 * kPart);
  if (!memory.Offer(range, kPart)) GTEST_SKIP() << "a kernel before 4.5";
  // Nothing is short, so nothing has gone.
  EXPECT_EQ(FaultsOfTouching(range, kPart), 0);
  EXPECT_EQ(range[kPart], 0x5a);
  memory.Unreserve(range, 2 * kPart);
}

// Offers, or not, 160 MiB of a group that may have 256, and takes 160 more.
int StatusInGroup(const MappedMemory::Options& options, bool offer,
                  std::string* why_not) {
  const ControlGroup group = FindControlGroup("memory");
  if (group.version == 0) {
    *why_not = "no memory control group";
    return -1;
  }
  const std::string directory = group.directories[0] + "/tf_model_pool_test";
  rmdir(directory.c_str());
  const auto write = [&](const char* file, const std::string& text) {
    std::ofstream out(directory + file);
    out << text << std::flush;
    return out.good();
  };
  constexpr size_t kBytes = 80 * kPart;
  int status = -1;
  if (mkdir(directory.c_str(), 0755) != 0 ||
      !write(group.version == 1 ? "/memory.limit_in_bytes" : "/memory.max",
             std::to_string(128 * kPart))) {
    *why_not = "no group can be made or limited here";
  } else {
    status = StatusOfChild([&] {
      if (!write("/cgroup.procs", "0")) return false;
      MappedMemory memory(options);
      void* standby = memory.Reserve(kBytes);
      void* other = memory.Reserve(kBytes);
      if (!memory.Commit(standby, kBytes)) return false;
      if (offer && !memory.Offer(standby, kBytes)) return false;
      return memory.Commit(other, kBytes);
    });
  }
  rmdir(directory.c_str());
  return status;
}

TEST_P(MappedMemoryTest, OfferedMemoryIsTakenAndNobodyKilledAtALimit) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer takes several times what is touched";
#endif
  MappedMemory::Options options = GetParam();
  options.prefault = true;
  std::string why_not;
  const int offered = StatusInGroup(options, /*offer=*/true, &why_not);
  if (!why_not.empty()) GTEST_SKIP() << why_not;
  const int not_offered = StatusInGroup(options, /*offer=*/false, &why_not);
  EXPECT_TRUE(WIFSIGNALED(not_offered)) << "the group does not limit";
  EXPECT_TRUE(WIFEXITED(offered)) << WTERMSIG(offered);
  EXPECT_EQ(WEXITSTATUS(offered), 0);
}

TEST(MappedMemoryRefusalTest, AddressSpaceIsScarceIfItIsLimited) {
  MappedMemory memory(kLazy);
  EXPECT_EQ(StatusOfChild([&] {
              if (memory.AddressSpaceIsScarce()) return false;
              rlimit limit;
              getrlimit(RLIMIT_AS, &limit);
              limit.rlim_cur = size_t{1} << 46;
              setrlimit(RLIMIT_AS, &limit);
              return memory.AddressSpaceIsScarce();
            }),
            0);
}

TEST(MappedMemoryRefusalTest, CommitThatIsRefusedHalfwayChangesNothing) {
  constexpr size_t kBytes = 32 * kPart;
  MappedMemory memory(kSmallPages);
  char* range = static_cast<char*>(memory.Reserve(kBytes));
  ASSERT_NE(range, nullptr);
  memory.Unreserve(range + kBytes - kPart, kPart);
  EXPECT_FALSE(memory.Commit(range, kBytes));
  EXPECT_EQ(ResidentPages(range, kBytes - kPart), 0u);
  EXPECT_TRUE(memory.Commit(range, kBytes - kPart));
  memory.Unreserve(range, kBytes - kPart);
}

TEST(MappedMemoryRefusalTest, ImpossibleReservationsAreRefused) {
  MappedMemory memory(kLazy);
  EXPECT_EQ(memory.Reserve(size_t{1} << 62), nullptr);
  EXPECT_EQ(memory.Reserve(~(kPart - 1)), nullptr);  // wraps when padded
}

TEST(MappedMemoryRefusalTest, CommitOutsideAReservationIsRefused) {
  MappedMemory memory(kLazy);
  void* range = memory.Reserve(kPart);
  ASSERT_NE(range, nullptr);
  memory.Unreserve(range, kPart);
  EXPECT_FALSE(memory.Commit(range, kPart));
}

// Passes everything on, to nothing.
class RefusableMemory : public SystemMemory {
 public:
  void* Reserve(size_t bytes) override {
    return reinterpret_cast<void*>(RoundUp(bytes, kPart));
  }
  bool Commit(void*, size_t) override { return !refuse; }
  bool Offer(void*, size_t) override { return true; }
  void Discard(void*, size_t) override {}
  void Decommit(void*, size_t) override { ++decommits; }
  void Unreserve(void*, size_t) override { ++unreserves; }

  bool refuse = false;
  int decommits = 0;
  int unreserves = 0;
};

class VisitedMemoryTest : public ::testing::Test {
 protected:
  using Parts = std::vector<std::pair<void*, size_t>>;

  RefusableMemory memory_;
  Parts committed_;
  Parts decommitted_;
  int decommits_at_visit_ = -1;
  VisitedMemory visited_{&memory_,
                         [this](void* address, size_t bytes) {
                           committed_.push_back({address, bytes});
                         },
                         [this](void* address, size_t bytes) {
                           decommitted_.push_back({address, bytes});
                           decommits_at_visit_ = memory_.decommits;
                         }};
  char* const base_ = reinterpret_cast<char*>(16 * kPart);
};

TEST_F(VisitedMemoryTest, EachPartIsVisitedOnceEachWay) {
  ASSERT_TRUE(visited_.Commit(base_, kPart));
  ASSERT_TRUE(visited_.Commit(base_ + kPart, 2 * kPart));
  visited_.Decommit(base_, 3 * kPart);
  const Parts parts = {{base_, kPart}, {base_ + kPart, 2 * kPart}};
  EXPECT_EQ(committed_, parts);
  // They leave in the pieces that were committed, although in one call.
  EXPECT_EQ(decommitted_, parts);
  visited_.Decommit(base_, 3 * kPart);
  EXPECT_EQ(decommitted_.size(), 2u);
}

TEST_F(VisitedMemoryTest, PartsAreGivenBackAsTheyWereCommitted) {
  EXPECT_FALSE(visited_.Divisible());
  EXPECT_TRUE(memory_.Divisible());
}

TEST_F(VisitedMemoryTest, WhatADriverMayHoldIsNotOffered) {
  ASSERT_TRUE(visited_.Commit(base_, kPart));
  EXPECT_FALSE(visited_.Offer(base_, kPart));
  EXPECT_TRUE(memory_.Offer(base_, kPart));
}

TEST_F(VisitedMemoryTest, PartsElsewhereAreNotVisited) {
  ASSERT_TRUE(visited_.Commit(base_, kPart));
  ASSERT_TRUE(visited_.Commit(base_ + 4 * kPart, kPart));
  visited_.Decommit(base_ + 4 * kPart, kPart);
  EXPECT_EQ(decommitted_, (Parts{{base_ + 4 * kPart, kPart}}));
}

TEST_F(VisitedMemoryTest, RefusedCommitIsNotVisited) {
  memory_.refuse = true;
  EXPECT_FALSE(visited_.Commit(base_, kPart));
  visited_.Decommit(base_, kPart);
  EXPECT_TRUE(committed_.empty());
  EXPECT_TRUE(decommitted_.empty());
}

TEST_F(VisitedMemoryTest, VisitorsSeeAPartBeforeItsPagesAreGone) {
  ASSERT_TRUE(visited_.Commit(base_, kPart));
  visited_.Decommit(base_, kPart);
  EXPECT_EQ(decommits_at_visit_, 0);
  EXPECT_EQ(memory_.decommits, 1);
}

TEST_F(VisitedMemoryTest, EndOfAReservationVisitsWhatIsStillCommitted) {
  ASSERT_TRUE(visited_.Commit(base_, kPart));
  ASSERT_TRUE(visited_.Commit(base_ + kPart, kPart));
  visited_.Decommit(base_ + kPart, kPart);
  visited_.Unreserve(base_, 4 * kPart);
  EXPECT_EQ(decommitted_, (Parts{{base_ + kPart, kPart}, {base_, kPart}}));
  EXPECT_EQ(memory_.unreserves, 1);
}

}  // namespace
}  // namespace tf_model_pool
