// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/process_sampler.h"

#include <chrono>
#include <utility>

#include "tf_allocator/bench/counters.h"

namespace tf_model_pool {
namespace bench {
namespace {

constexpr int64_t kIntervalNs = 100000000;

}  // namespace

ProcessSampler::ProcessSampler(int64_t zero_ns, RunLog* log,
                               std::function<void(int64_t)> on_resident)
    : zero_ns_(zero_ns),
      log_(log),
      on_resident_(std::move(on_resident)),
      thread_([this] { Sample(); }) {}

ProcessSampler::~ProcessSampler() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    stop_.notify_all();
  }
  thread_.join();
}

void ProcessSampler::Sample() {
  RunQueueTotal run_queue;
  int64_t due_ns = zero_ns_;
  bool stopping = false;
  while (true) {
    const ProcessCounters process = ReadProcessCounters();
    const MachineCounters machine = ReadMachineCounters();
    SampleRecord record;
    record.rss_bytes = ReadResidentBytes();
    record.minor_faults = process.minor_faults;
    record.major_faults = process.major_faults;
    record.runqueue_ns = run_queue.Read();
    record.utime_ns = process.utime_ns;
    record.stime_ns = process.stime_ns;
    record.steal_ns = machine.steal_ns;
    record.system_busy_ns = machine.busy_ns;
    record.at_ns = MonotonicNs() - zero_ns_;
    log_->Add(record);
    on_resident_(record.rss_bytes);
    if (stopping) return;
    // Moments that were missed are left out: a sample says when it was taken.
    while (due_ns <= zero_ns_ + record.at_ns) due_ns += kIntervalNs;
    std::unique_lock<std::mutex> lock(mutex_);
    stopping = stop_.wait_until(
        lock,
        std::chrono::steady_clock::time_point(std::chrono::nanoseconds(due_ns)),
        [this] { return stopping_; });
  }
}

}  // namespace bench
}  // namespace tf_model_pool
