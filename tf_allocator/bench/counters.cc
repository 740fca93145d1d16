// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/counters.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <utility>

namespace tf_model_pool {
namespace bench {
namespace {

constexpr int64_t kSecond = 1000000000;

int64_t Nanoseconds(const timeval& time) {
  return time.tv_sec * kSecond + time.tv_usec * 1000;
}

// Reads a small file of /proc from its beginning into `text`.
template <size_t kSize>
bool ReadAt(int file, char (&text)[kSize]) {
  const ssize_t size = pread(file, text, kSize - 1, 0);
  if (size <= 0) return false;
  text[size] = '\0';
  return true;
}

// A thread's schedstat file, held open: a request reads it twice.
class SchedstatFile {
 public:
  SchedstatFile()
      : file_(open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC)) {}
  ~SchedstatFile() {
    if (file_ >= 0) close(file_);
  }
  SchedstatFile(const SchedstatFile&) = delete;
  SchedstatFile& operator=(const SchedstatFile&) = delete;

  int64_t RunQueueNs() const {
    char text[128];
    int64_t runqueue_ns = 0;
    if (file_ >= 0 && ReadAt(file_, text)) {
      ParseSchedstat(text, &runqueue_ns);
    }
    return runqueue_ns;
  }

 private:
  const int file_;
};

}  // namespace

int64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kSecond + now.tv_nsec;
}

ThreadCounters ReadThreadCounters() {
  static thread_local const SchedstatFile file;
  ThreadCounters counters;
  counters.runqueue_ns = file.RunQueueNs();
  // schedstat's CPU time lags by up to a tick.
  timespec cpu{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
  counters.cpu_ns = cpu.tv_sec * kSecond + cpu.tv_nsec;
  rusage usage{};
  if (getrusage(RUSAGE_THREAD, &usage) == 0) {
    counters.minor_faults = usage.ru_minflt;
    counters.major_faults = usage.ru_majflt;
    counters.voluntary_switches = usage.ru_nvcsw;
    counters.involuntary_switches = usage.ru_nivcsw;
  }
  return counters;
}

ProcessCounters ReadProcessCounters() {
  ProcessCounters counters;
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) == 0) {
    counters.minor_faults = usage.ru_minflt;
    counters.major_faults = usage.ru_majflt;
    counters.utime_ns = Nanoseconds(usage.ru_utime);
    counters.stime_ns = Nanoseconds(usage.ru_stime);
    counters.peak_resident_bytes = usage.ru_maxrss * 1024;
  }
  return counters;
}

int64_t ReadResidentBytes() {
  static const int64_t page = sysconf(_SC_PAGESIZE);
  std::ifstream file("/proc/self/statm");
  int64_t size = 0;
  int64_t resident = 0;
  file >> size >> resident;
  return resident * page;
}

MachineCounters ReadMachineCounters() {
  static const int64_t tick_ns = kSecond / sysconf(_SC_CLK_TCK);
  MachineCounters counters;
  std::ifstream file("/proc/stat");
  std::string line;
  if (std::getline(file, line)) ParseCpuLine(line, tick_ns, &counters);
  return counters;
}

int64_t RunQueueTotal::Read() {
  std::map<std::string, int64_t> now;
  if (DIR* tasks = opendir("/proc/self/task")) {
    while (const dirent* task = readdir(tasks)) {
      if (task->d_name[0] == '.') continue;
      const std::string path =
          std::string("/proc/self/task/") + task->d_name + "/schedstat";
      const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
      if (file < 0) continue;  // the thread has just ended
      char text[128];
      int64_t runqueue_ns = 0;
      if (ReadAt(file, text) && ParseSchedstat(text, &runqueue_ns)) {
        now[task->d_name] = runqueue_ns;
      }
      close(file);
    }
    closedir(tasks);
  }
  int64_t total = 0;
  for (const auto& [thread, before] : live_) {
    const auto found = now.find(thread);
    // A smaller value is of another thread that got the same id.
    if (found == now.end() || found->second < before) ended_ += before;
  }
  for (const auto& [thread, value] : now) total += value;
  live_ = std::move(now);
  return ended_ + total;
}

bool ParseSchedstat(const char* text, int64_t* runqueue_ns) {
  int64_t cpu_ns = 0;
  return std::sscanf(text, "%" SCNd64 " %" SCNd64, &cpu_ns, runqueue_ns) == 2;
}

bool ParseCpuLine(const std::string& line, int64_t tick_ns,
                  MachineCounters* counters) {
  std::istringstream words(line);
  std::string label;
  int64_t user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0,
          softirq = 0, steal = 0;
  words >> label >> user >> nice >> system >> idle >> iowait >> irq >>
      softirq >> steal;
  if (!words || label != "cpu") return false;
  counters->steal_ns = steal * tick_ns;
  counters->busy_ns = (user + nice + system + irq + softirq) * tick_ns;
  return true;
}

}  // namespace bench
}  // namespace tf_model_pool
