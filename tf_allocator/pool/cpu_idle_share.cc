// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/cpu_idle_share.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace tf_model_pool {

CpuTicks ParseCpuTicks(const std::string& proc_stat,
                       const std::function<bool(int cpu)>& counts) {
  CpuTicks ticks;
  std::istringstream lines(proc_stat);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    // "cpu", the sum, comes before "cpu0", "cpu1", ...
    if (name.size() < 4 || name.compare(0, 3, "cpu") != 0 ||
        name.find_first_not_of("0123456789", 3) != std::string::npos) {
      continue;
    }
    if (!counts(std::atoi(name.c_str() + 3))) continue;
    // user nice system idle iowait irq softirq steal; what follows is part of
    // user and nice.
    uint64_t value;
    for (int i = 0; i < 8 && words >> value; ++i) {
      ticks.all += value;
      if (i == 3 || i == 4) ticks.idle += value;
    }
  }
  return ticks;
}

CpuTicks ReadCpuTicks() {
  cpu_set_t usable;
  CPU_ZERO(&usable);
  // Fails where the machine has more CPUs than the set has room for.
  const bool known = sched_getaffinity(0, sizeof(usable), &usable) == 0;
  std::ifstream file("/proc/stat");
  std::ostringstream text;
  text << file.rdbuf();
  return ParseCpuTicks(text.str(), [&](int cpu) {
    return !known || (cpu < CPU_SETSIZE && CPU_ISSET(cpu, &usable));
  });
}

double IdleShare(const CpuTicks& before, const CpuTicks& after) {
  // The kernel's idle counters have been seen to step back.
  if (after.all <= before.all || after.idle < before.idle) return 1;
  return static_cast<double>(after.idle - before.idle) /
         static_cast<double>(after.all - before.all);
}

CpuUse UseOfIdleCpus(double idle_share, int cpus) {
  // What the system itself does now and then does not count.
  constexpr double kBackground = 0.1;
  const double idle = std::min(idle_share * cpus + kBackground, 1.0 * cpus);
  if (idle >= cpus) return {cpus, /*pauses=*/false};
  // One idle CPU is left to requests.
  const int threads = std::max(1, static_cast<int>(idle) - 1);
  return {threads, /*pauses=*/idle - threads < 1};
}

}  // namespace tf_model_pool
