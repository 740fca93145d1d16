// SPDX-License-Identifier: Apache-2.0
//
// Times the phases of an update on the thread that does them, and holds
// requests for a while in a phase that a test names.

#ifndef TF_ALLOCATOR_BENCH_PHASE_RECORDER_H_
#define TF_ALLOCATOR_BENCH_PHASE_RECORDER_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "tf_allocator/bench/counters.h"
#include "tf_allocator/bench/run_log.h"

namespace tf_model_pool {
namespace bench {

// Requests wait here while they are held. Thread-safe.
class StallGate {
 public:
  // Returns at once unless requests are held. Costs one load then.
  void Pass();
  // Holds every request that comes, for `ns`; sleeps meanwhile. Returns a time
  // at which the gate was closed already, and one at which it was closed still.
  std::pair<int64_t, int64_t> Hold(int64_t ns);
  bool Closed() const { return holders_.load() != 0; }

 private:
  std::atomic<int> holders_{0};
  std::mutex mutex_;
  std::condition_variable opened_;
};

// A stall that an update still has to make.
struct PlannedStall {
  Phase phase = Phase::kRestore;
  int64_t ns = 0;
};

// Records one update. Its phases may be done by different threads one after
// another, each phase by one.
class PhaseRecorder {
 public:
  PhaseRecorder(int model, int64_t zero_ns, StallGate* gate, RunLog* log,
                std::vector<PlannedStall> stalls);
  // Records nothing and stalls never: for what happens before the run.
  PhaseRecorder() = default;
  ~PhaseRecorder() { End(); }
  PhaseRecorder(const PhaseRecorder&) = delete;
  PhaseRecorder& operator=(const PhaseRecorder&) = delete;

  // The version that the phases are of from now on.
  void set_version(int version) { record_.version = version; }

  // Ends the phase before, begins `phase`, and makes its stalls.
  void Begin(Phase phase);
  // Ends the phase that runs, if one does.
  void End();

 private:
  RunLog* const log_ = nullptr;
  StallGate* const gate_ = nullptr;
  const int64_t zero_ns_ = 0;
  std::vector<PlannedStall> stalls_;
  bool running_ = false;
  PhaseRecord record_;
  ProcessCounters process_;
};

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_PHASE_RECORDER_H_
