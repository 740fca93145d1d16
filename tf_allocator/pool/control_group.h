// SPDX-License-Identifier: Apache-2.0
//
// The control groups (v1 and v2) that limit this process.

#ifndef TF_ALLOCATOR_POOL_CONTROL_GROUP_H_
#define TF_ALLOCATOR_POOL_CONTROL_GROUP_H_

#include <string>
#include <vector>

namespace tf_model_pool {

struct ControlGroup {
  int version = 0;  // 1 or 2; 0 = the process is in none of this controller
  // The process's own, then each one around it.
  std::vector<std::string> directories;
};

// From the texts of /proc/self/cgroup and /proc/self/mountinfo. Of v1 if
// `controller` ("cpu", "cpuacct", "memory") has a hierarchy of its own, and of
// v2 otherwise.
ControlGroup ParseControlGroup(const std::string& proc_cgroup,
                               const std::string& mountinfo,
                               const std::string& controller);

// The one of this process, now.
ControlGroup FindControlGroup(const std::string& controller);

// A whole file, "" if it cannot be read.
std::string ReadText(const std::string& path);

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_CONTROL_GROUP_H_
