// SPDX-License-Identifier: Apache-2.0
//
// The memory that this process may still take before the kernel kills somebody.

#ifndef TF_ALLOCATOR_POOL_MEMORY_HEADROOM_H_
#define TF_ALLOCATOR_POOL_MEMORY_HEADROOM_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <string>

#include "tf_allocator/pool/control_group.h"

namespace tf_model_pool {

struct MemoryHeadroom {
  uint64_t bytes = std::numeric_limits<uint64_t>::max();
  bool limited = false;  // by a control group

  // By the process's memory control group and those around it (v1 or v2), and
  // by the machine. What the kernel can take back, page cache that is not in
  // use and memory that was offered to it, counts as room. Reads files: some
  // hundred microseconds.
  static MemoryHeadroom OfProcess();

  // The same; `read` returns a file's text, "" if there is no such file.
  static MemoryHeadroom Of(
      const ControlGroup& group,
      const std::function<std::string(const std::string& path)>& read);
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_MEMORY_HEADROOM_H_
