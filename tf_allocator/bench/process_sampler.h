// SPDX-License-Identifier: Apache-2.0
//
// Writes down memory, faults, CPU time and run-queue wait of this process, and
// the machine's steal, every 100 ms.

#ifndef TF_ALLOCATOR_BENCH_PROCESS_SAMPLER_H_
#define TF_ALLOCATOR_BENCH_PROCESS_SAMPLER_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#include "tf_allocator/bench/run_log.h"

namespace tf_model_pool {
namespace bench {

class ProcessSampler {
 public:
  // `on_resident` is called with each sample's resident bytes.
  ProcessSampler(int64_t zero_ns, RunLog* log,
                 std::function<void(int64_t)> on_resident);
  ~ProcessSampler();  // after a last sample
  ProcessSampler(const ProcessSampler&) = delete;
  ProcessSampler& operator=(const ProcessSampler&) = delete;

 private:
  void Sample();

  const int64_t zero_ns_;
  RunLog* const log_;
  const std::function<void(int64_t)> on_resident_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_PROCESS_SAMPLER_H_
