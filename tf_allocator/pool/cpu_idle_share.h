// SPDX-License-Identifier: Apache-2.0
//
// Whether the CPUs that this process may use have time to spare.

#ifndef TF_ALLOCATOR_POOL_CPU_IDLE_SHARE_H_
#define TF_ALLOCATOR_POOL_CPU_IDLE_SHARE_H_

#include <cstdint>
#include <functional>
#include <string>

namespace tf_model_pool {

// Clock ticks since boot, of several CPUs together.
struct CpuTicks {
  uint64_t idle = 0;  // idle, or waiting for a device
  uint64_t all = 0;
};

// Sums the lines of the CPUs for which `counts` in the text of /proc/stat.
// Zero where there are none.
CpuTicks ParseCpuTicks(const std::string& proc_stat,
                       const std::function<bool(int cpu)>& counts);

// Of the CPUs that the calling thread may run on. Zero where /proc/stat cannot
// be read.
CpuTicks ReadCpuTicks();

// From 0 to 1; 1 where no tick passed in between.
double IdleShare(const CpuTicks& before, const CpuTicks& after);

// How work of the idle class may use the CPUs. One that runs such work does not
// count as idle for the kernel when it looks for threads that wait for another
// CPU.
struct CpuUse {
  int threads = 1;  // at once
  // Whether they are to let go of their CPUs now and then, so that the kernel
  // looks.
  bool pauses = false;
};

// With `cpus` usable ones, of which `idle_share` has been idle. All of them
// where nothing else runs. Else one stays free for requests, or there are
// pauses; at least one thread.
CpuUse UseOfIdleCpus(double idle_share, int cpus);

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_CPU_IDLE_SHARE_H_
