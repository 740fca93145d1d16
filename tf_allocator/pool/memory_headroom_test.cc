// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/memory_headroom.h"

#include <cstdint>
#include <limits>
#include <map>
#include <string>

#include "gtest/gtest.h"

namespace tf_model_pool {
namespace {

using Files = std::map<std::string, std::string>;

constexpr uint64_t kNone = std::numeric_limits<uint64_t>::max();

MemoryHeadroom Headroom(int version, const Files& files) {
  return MemoryHeadroom::Of({version, {"/g/pod/web", "/g/pod", "/g"}},
                            [&](const std::string& path) {
                              const auto it = files.find(path);
                              return it == files.end() ? "" : it->second;
                            });
}

TEST(MemoryHeadroomTest, NothingKnownIsNoLimit) {
  for (int version : {1, 2}) {
    const MemoryHeadroom headroom = Headroom(version, {});
    EXPECT_EQ(headroom.bytes, kNone);
    EXPECT_FALSE(headroom.limited);
  }
}

TEST(MemoryHeadroomTest, NoLimitIsWrittenAsMaxOrAsAHugeNumber) {
  EXPECT_FALSE(Headroom(2, {{"/g/pod/web/memory.max", "max\n"},
                            {"/g/pod/web/memory.high", "max\n"},
                            {"/g/pod/web/memory.current", "500\n"}})
                   .limited);
  EXPECT_FALSE(Headroom(1, {{"/g/pod/web/memory.limit_in_bytes",
                             "9223372036854771712\n"},
                            {"/g/pod/web/memory.usage_in_bytes", "500\n"}})
                   .limited);
}

TEST(MemoryHeadroomTest, InactiveFilePagesAreRoomInV2) {
  const MemoryHeadroom headroom =
      Headroom(2, {{"/g/pod/web/memory.max", "1000\n"},
                   {"/g/pod/web/memory.high", "max\n"},
                   {"/g/pod/web/memory.current", "900\n"},
                   {"/g/pod/web/memory.stat",
                    "anon 100\ninactive_file 300\nactive_file 400\n"}});
  EXPECT_EQ(headroom.bytes, 400u);
  EXPECT_TRUE(headroom.limited);
}

TEST(MemoryHeadroomTest, InactiveFilePagesOfTheWholeGroupAreRoomInV1) {
  const MemoryHeadroom headroom =
      Headroom(1, {{"/g/pod/web/memory.limit_in_bytes", "1000\n"},
                   {"/g/pod/web/memory.usage_in_bytes", "900\n"},
                   {"/g/pod/web/memory.stat",
                    "inactive_file 1\ntotal_inactive_file 300\n"}});
  EXPECT_EQ(headroom.bytes, 400u);
  EXPECT_TRUE(headroom.limited);
}

TEST(MemoryHeadroomTest, TheThrottlingLimitCountsIfItIsLower) {
  EXPECT_EQ(Headroom(2, {{"/g/pod/web/memory.max", "1000\n"},
                         {"/g/pod/web/memory.high", "800\n"},
                         {"/g/pod/web/memory.current", "500\n"}})
                .bytes,
            300u);
}

TEST(MemoryHeadroomTest, TheTightestOfAllGroupsAroundCounts) {
  EXPECT_EQ(Headroom(2, {{"/g/pod/web/memory.max", "1000\n"},
                         {"/g/pod/web/memory.current", "500\n"},
                         {"/g/pod/memory.max", "2000\n"},
                         {"/g/pod/memory.current", "1900\n"}})
                .bytes,
            100u);
}

TEST(MemoryHeadroomTest, OverTheLimitIsNoRoomAndNoWrapAround) {
  EXPECT_EQ(Headroom(2, {{"/g/pod/web/memory.max", "0\n"},
                         {"/g/pod/web/memory.current", "500\n"}})
                .bytes,
            0u);
  // The two numbers are not read at one moment.
  EXPECT_EQ(Headroom(2, {{"/g/pod/web/memory.max", "1000\n"},
                         {"/g/pod/web/memory.current", "100\n"},
                         {"/g/pod/web/memory.stat", "inactive_file 150\n"}})
                .bytes,
            1000u);
}

TEST(MemoryHeadroomTest, TheMachineItselfIsALimitOfItsOwnKind) {
  const MemoryHeadroom headroom = Headroom(
      2, {{"/proc/meminfo", "MemTotal:  9 kB\nMemAvailable:    7 kB\n"},
          {"/g/pod/web/memory.max", "100000\n"},
          {"/g/pod/web/memory.current", "500\n"}});
  EXPECT_EQ(headroom.bytes, 7 * 1024u);
  EXPECT_FALSE(
      Headroom(2, {{"/proc/meminfo", "MemAvailable: 7 kB\n"}}).limited);
}

TEST(MemoryHeadroomTest, GarbageIsNoLimit) {
  EXPECT_EQ(Headroom(2, {{"/g/pod/web/memory.max", "many\n"},
                         {"/g/pod/web/memory.high", ""},
                         {"/g/pod/web/memory.current", "500\n"},
                         {"/g/pod/memory.max", "1000\n"},
                         {"/g/pod/memory.current", "?\n"},
                         {"/proc/meminfo", "MemAvailable:\n"}})
                .bytes,
            kNone);
}

TEST(MemoryHeadroomTest, ThisProcessHasRoom) {
  EXPECT_GT(MemoryHeadroom::OfProcess().bytes, 0u);
}

}  // namespace
}  // namespace tf_model_pool
