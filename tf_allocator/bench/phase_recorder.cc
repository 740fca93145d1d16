// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/phase_recorder.h"

#include <chrono>
#include <thread>
#include <utility>

namespace tf_model_pool {
namespace bench {

void StallGate::Pass() {
  if (holders_.load(std::memory_order_acquire) == 0) return;
  std::unique_lock<std::mutex> lock(mutex_);
  opened_.wait(lock, [this] { return holders_.load() == 0; });
}

std::pair<int64_t, int64_t> StallGate::Hold(int64_t ns) {
  holders_.fetch_add(1);
  const int64_t begin_ns = MonotonicNs();
  std::this_thread::sleep_for(std::chrono::nanoseconds(ns));
  const int64_t end_ns = MonotonicNs();
  std::lock_guard<std::mutex> lock(mutex_);
  holders_.fetch_sub(1);
  opened_.notify_all();
  return {begin_ns, end_ns};
}

PhaseRecorder::PhaseRecorder(int model, int64_t zero_ns, StallGate* gate,
                             RunLog* log, std::vector<PlannedStall> stalls)
    : log_(log), gate_(gate), zero_ns_(zero_ns), stalls_(std::move(stalls)) {
  record_.model = model;
}

void PhaseRecorder::Begin(Phase phase) {
  if (log_ == nullptr) return;
  End();
  running_ = true;
  record_.phase = phase;
  process_ = ReadProcessCounters();
  record_.begin_ns = MonotonicNs() - zero_ns_;
  for (const PlannedStall& stall : stalls_) {
    if (stall.phase != phase) continue;
    StallRecord made;
    made.model = record_.model;
    made.phase = phase;
    const auto [begin_ns, end_ns] = gate_->Hold(stall.ns);
    made.begin_ns = begin_ns - zero_ns_;
    made.end_ns = end_ns - zero_ns_;
    log_->Add(made);
  }
}

void PhaseRecorder::End() {
  if (!running_) return;
  running_ = false;
  record_.end_ns = MonotonicNs() - zero_ns_;
  const ProcessCounters process = ReadProcessCounters();
  record_.minor_faults = process.minor_faults - process_.minor_faults;
  record_.major_faults = process.major_faults - process_.major_faults;
  log_->Add(record_);
}

}  // namespace bench
}  // namespace tf_model_pool
