// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/control_group.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tf_model_pool {
namespace {

using Directories = std::vector<std::string>;

constexpr char kV2Mount[] =
    "24 23 0:20 / /proc rw - proc proc rw\n"
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";

constexpr char kV1Mounts[] =
    "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup "
    "rw,cpu,cpuacct\n"
    "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

TEST(ControlGroupTest, V2ListsTheGroupAndEachOneAroundIt) {
  const ControlGroup group =
      ParseControlGroup("0::/kubepods/pod1/c2\n", kV2Mount, "cpu");
  EXPECT_EQ(group.version, 2);
  EXPECT_EQ(group.directories,
            (Directories{"/sys/fs/cgroup/kubepods/pod1/c2",
                         "/sys/fs/cgroup/kubepods/pod1",
                         "/sys/fs/cgroup/kubepods", "/sys/fs/cgroup"}));
}

TEST(ControlGroupTest, V1HasAHierarchyForEachController) {
  const std::string groups =
      "9:memory:/a\n4:cpu,cpuacct:/b/c\n1:name=systemd:/d\n0::/e\n";
  const ControlGroup cpu = ParseControlGroup(groups, kV1Mounts, "cpuacct");
  EXPECT_EQ(cpu.version, 1);
  EXPECT_EQ(cpu.directories, (Directories{"/sys/fs/cgroup/cpu,cpuacct/b/c",
                                          "/sys/fs/cgroup/cpu,cpuacct/b",
                                          "/sys/fs/cgroup/cpu,cpuacct"}));
  const ControlGroup memory = ParseControlGroup(groups, kV1Mounts, "memory");
  EXPECT_EQ(memory.directories.front(), "/sys/fs/cgroup/memory/a");
}

TEST(ControlGroupTest, InAContainerTheMountIsTheGroup) {
  // Without a namespace of control groups the paths are the host's.
  const ControlGroup group = ParseControlGroup(
      "4:cpu:/docker/0123\n",
      "31 30 0:27 /docker/0123 /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n",
      "cpu");
  EXPECT_EQ(group.directories, Directories{"/sys/fs/cgroup/cpu"});
}

TEST(ControlGroupTest, AGroupOutsideOfTheMountsRootCountsAsTheMount) {
  for (const char* groups : {"0::/lxc/web2/init\n", "0::/lxc\n", "0::/lxc/we\n",
                             "0::/other/web\n", "0::no/slash\n"}) {
    const ControlGroup group = ParseControlGroup(
        groups, "30 23 0:26 /lxc/web /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
        "cpu");
    EXPECT_EQ(group.directories, Directories{"/sys/fs/cgroup"}) << groups;
  }
  EXPECT_EQ(ParseControlGroup("0::no/slash\n", kV2Mount, "cpu").directories,
            Directories{"/sys/fs/cgroup"});
}

TEST(ControlGroupTest, AGroupBelowTheMountsRootIsListedUpToIt) {
  const ControlGroup group = ParseControlGroup(
      "0::/lxc/web/init\n",
      "30 23 0:26 /lxc/web /sys/fs/cgroup rw - cgroup2 cgroup rw\n", "cpu");
  EXPECT_EQ(group.directories,
            (Directories{"/sys/fs/cgroup/init", "/sys/fs/cgroup"}));
}

TEST(ControlGroupTest, WhatIsNotMountedLimitsNothing) {
  EXPECT_EQ(ParseControlGroup("", "", "cpu").version, 0);
  EXPECT_EQ(ParseControlGroup("0::/a\n", "", "cpu").version, 0);
  EXPECT_EQ(ParseControlGroup("4:cpu:/a\n", kV2Mount, "cpu").version, 0);
  EXPECT_EQ(ParseControlGroup("no colons\n:\n", kV2Mount, "cpu").version, 0);
}

}  // namespace
}  // namespace tf_model_pool
