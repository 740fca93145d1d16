// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/restore/rate_limit.h"

#include <algorithm>

namespace tf_model_pool {

RateLimit::Clock::time_point RateLimit::Take(uint64_t bytes,
                                             Clock::time_point now) {
  const std::chrono::duration<double> takes(static_cast<double>(bytes) /
                                            bytes_per_second_);
  const std::lock_guard<std::mutex> lock(mu_);
  const Clock::time_point begin = std::max(now, free_at_);
  free_at_ = begin + std::chrono::duration_cast<Clock::duration>(takes);
  return begin;
}

}  // namespace tf_model_pool
