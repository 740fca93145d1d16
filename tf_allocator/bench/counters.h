// SPDX-License-Identifier: Apache-2.0
//
// The kernel's counters of a thread, of this process, and of the machine. All
// times are nanoseconds, all sizes bytes. A counter that the kernel does not
// offer reads 0.

#ifndef TF_ALLOCATOR_BENCH_COUNTERS_H_
#define TF_ALLOCATOR_BENCH_COUNTERS_H_

#include <cstdint>
#include <map>
#include <string>

namespace tf_model_pool {
namespace bench {

// CLOCK_MONOTONIC.
int64_t MonotonicNs();

// The calling thread's, since it began.
struct ThreadCounters {
  int64_t cpu_ns = 0;
  int64_t runqueue_ns = 0;  // ready to run, waiting for a CPU
  int64_t minor_faults = 0;
  int64_t major_faults = 0;
  int64_t voluntary_switches = 0;
  int64_t involuntary_switches = 0;
};
// Opens a file in the first call of a thread, and allocates nothing after it.
ThreadCounters ReadThreadCounters();

// This process's, since it began.
struct ProcessCounters {
  int64_t minor_faults = 0;
  int64_t major_faults = 0;
  int64_t utime_ns = 0;
  int64_t stime_ns = 0;
  int64_t peak_resident_bytes = 0;
};
ProcessCounters ReadProcessCounters();
int64_t ReadResidentBytes();

// The whole machine's, since it started.
struct MachineCounters {
  int64_t steal_ns = 0;
  int64_t busy_ns = 0;  // everything but idle, waiting for I/O, and steal
};
MachineCounters ReadMachineCounters();

// The run-queue wait of all threads of this process, those that ended since
// the first call included up to when they were last seen. Not thread-safe.
class RunQueueTotal {
 public:
  int64_t Read();

 private:
  std::map<std::string, int64_t> live_;  // thread id -> its last value
  int64_t ended_ = 0;
};

// The wait that a schedstat file tells. Returns false if `text` is not one.
bool ParseSchedstat(const char* text, int64_t* runqueue_ns);

// The "cpu" line of /proc/stat; `tick_ns` is the length of a clock tick.
bool ParseCpuLine(const std::string& line, int64_t tick_ns,
                  MachineCounters* counters);

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_COUNTERS_H_
