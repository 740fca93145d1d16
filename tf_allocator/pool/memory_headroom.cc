// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/memory_headroom.h"

#include <algorithm>
#include <sstream>
#include <vector>

namespace tf_model_pool {
namespace {

// v1 writes "no limit" as the largest number of pages.
constexpr uint64_t kLargestLimit = uint64_t{1} << 62;

// False for "max", and if there is no number.
bool ParseBytes(const std::string& text, uint64_t* bytes) {
  std::istringstream in(text);
  return static_cast<bool>(in >> *bytes);
}

// The number after `name` in a file of names and numbers, else 0.
uint64_t Field(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream in(line);
    std::string word;
    uint64_t value;
    if (in >> word >> value && word == name) return value;
  }
  return 0;
}

}  // namespace

MemoryHeadroom MemoryHeadroom::OfProcess() {
  return Of(FindControlGroup("memory"), ReadText);
}

MemoryHeadroom MemoryHeadroom::Of(
    const ControlGroup& group,
    const std::function<std::string(const std::string& path)>& read) {
  MemoryHeadroom least;
  const bool v1 = group.version == 1;
  const std::vector<std::string> limits =
      v1 ? std::vector<std::string>{"/memory.limit_in_bytes"}
         : std::vector<std::string>{"/memory.max", "/memory.high"};
  for (const std::string& directory : group.directories) {
    uint64_t limit = kLargestLimit;
    for (const std::string& file : limits) {
      uint64_t bytes;
      if (ParseBytes(read(directory + file), &bytes)) {
        limit = std::min(limit, bytes);
      }
    }
    uint64_t used;
    if (limit == kLargestLimit ||
        !ParseBytes(read(directory +
                         (v1 ? "/memory.usage_in_bytes" : "/memory.current")),
                    &used)) {
      continue;
    }
    used -= std::min(used, Field(read(directory + "/memory.stat"),
                                 v1 ? "total_inactive_file" : "inactive_file"));
    least.limited = true;
    least.bytes = std::min(least.bytes, limit - std::min(limit, used));
  }
  const uint64_t available = Field(read("/proc/meminfo"), "MemAvailable:");
  if (available > 0) least.bytes = std::min(least.bytes, available * 1024);
  return least;
}

}  // namespace tf_model_pool
