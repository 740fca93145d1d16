// SPDX-License-Identifier: Apache-2.0

#ifndef TF_ALLOCATOR_RESTORE_RATE_LIMIT_H_
#define TF_ALLOCATOR_RESTORE_RATE_LIMIT_H_

#include <chrono>
#include <cstdint>
#include <mutex>

namespace tf_model_pool {

// Bytes per second that several threads share. Time in which nothing is asked
// for is not saved up.
class RateLimit {
 public:
  using Clock = std::chrono::steady_clock;

  // `bytes_per_second` is at least 1.
  explicit RateLimit(uint64_t bytes_per_second)
      : bytes_per_second_(static_cast<double>(bytes_per_second)) {}

  // The time at which one that asks `now` may begin with `bytes` more: in the
  // past or now if the limit is not reached.
  Clock::time_point Take(uint64_t bytes, Clock::time_point now);

 private:
  const double bytes_per_second_;
  std::mutex mu_;
  Clock::time_point free_at_{};
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_RESTORE_RATE_LIMIT_H_
