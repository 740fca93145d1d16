// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/sched/cpu_share.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <sstream>
#include <thread>
#include <vector>

#include "tf_allocator/pool/control_group.h"

namespace tf_model_pool {
namespace {

// A load has this much in any case: on two busy CPUs, a quarter of one.
constexpr double kLeastOfCapacity = 0.125;
constexpr double kLeast = 0.25;

// Loads get the floor while the group has used this much of its quota in a
// period.
constexpr double kQuotaShort = 0.7;

constexpr double kWeightOfLastLook = 0.5;

constexpr int64_t kNsPerSecond = 1'000'000'000;

int64_t ClockNs(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return time.tv_sec * kNsPerSecond + time.tv_nsec;
}

}  // namespace

void CpuShare::Look(const CpuReading& reading) {
  floor_ = Floor(reading);
  if (!seen_) {
    seen_ = true;
    last_ = reading;
    others_ = in_group_ = -1;
    period_.clear();
    quota_is_short_ = false;
    share_ = floor_;
  }
  if (!std::isinf(reading.quota)) {
    period_.push_back({reading.now_ns, reading.quota_used_ns});
    while (reading.now_ns - period_.front().now_ns > kPeriodNs) {
      period_.pop_front();
    }
    const double used =
        static_cast<double>(reading.quota_used_ns - period_.front().used_ns);
    quota_is_short_ = used > kQuotaShort * reading.quota * kPeriodNs;
  }
  const int64_t took = reading.now_ns - last_.now_ns;
  if (took < kLookNs) return;
  const auto use = [&](int64_t before, int64_t after, double* average) {
    const int64_t loads = reading.loads_ns - last_.loads_ns;
    const double now =
        static_cast<double>(std::max<int64_t>(0, after - before - loads)) /
        static_cast<double>(took);
    *average = *average < 0 ? now
                            : kWeightOfLastLook * now +
                                  (1 - kWeightOfLastLook) * *average;
  };
  use(last_.cpus_busy_ns, reading.cpus_busy_ns, &others_);
  use(last_.quota_used_ns, reading.quota_used_ns, &in_group_);
  const double left =
      std::min(reading.cpus - others_, reading.quota - in_group_);
  share_ = std::max(floor_, kOfWhatIsLeft * left);
  last_ = reading;
}

double CpuShare::Floor(const CpuReading& reading) const {
  return std::min(kLeast,
                  kLeastOfCapacity * std::min(reading.cpus, reading.quota));
}

int64_t Turns::Pause(int64_t now_ns, int64_t cpu_ns, double share) {
  share = std::min(share, 1.0);
  const auto earned = static_cast<int64_t>(
      share * static_cast<double>(std::max<int64_t>(0, now_ns - now_ns_)));
  const int64_t used = cpu_ns - cpu_ns_;
  saved_ns_ = std::min(kMaxSavedNs, saved_ns_ + earned - used);
  now_ns_ = now_ns;
  cpu_ns_ = cpu_ns;
  return used < kShortestNs ? 0 : std::min(Owed(share), kLongestNs);
}

int64_t Turns::Owed(double share) const {
  if (saved_ns_ >= 0) return 0;
  const auto pause = static_cast<int64_t>(static_cast<double>(-saved_ns_) /
                                          std::min(share, 1.0));
  return pause < kShortestNs ? 0 : pause;
}

int64_t ParseBusyNs(const std::string& proc_stat,
                    const std::function<bool(int cpu)>& counts,
                    int64_t ticks_per_second) {
  int64_t ticks = 0;
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
    int64_t value;
    for (int i = 0; i < 8 && words >> value; ++i) {
      if (i != 3 && i != 4) ticks += value;
    }
  }
  return ticks * (kNsPerSecond / ticks_per_second);
}

double ParseQuotaV2(const std::string& cpu_max) {
  double quota = 0;
  double period = 0;
  // "max" is no number.
  if (!(std::istringstream(cpu_max) >> quota >> period) || quota <= 0 ||
      period <= 0) {
    return std::numeric_limits<double>::infinity();
  }
  return quota / period;
}

double ParseQuotaV1(const std::string& quota_us, const std::string& period_us) {
  return ParseQuotaV2(quota_us + " " + period_us);
}

CpuReader::CpuReader() : quota_(std::numeric_limits<double>::infinity()) {
  const ControlGroup cpu = FindControlGroup("cpu");
  v2_ = cpu.version == 2;
  size_t tightest = 0;
  for (size_t i = 0; i < cpu.directories.size(); ++i) {
    const std::string& directory = cpu.directories[i];
    const double quota =
        v2_ ? ParseQuotaV2(ReadText(directory + "/cpu.max"))
            : ParseQuotaV1(ReadText(directory + "/cpu.cfs_quota_us"),
                           ReadText(directory + "/cpu.cfs_period_us"));
    if (quota >= quota_) continue;
    quota_ = quota;
    tightest = i;
  }
  if (!has_quota()) return;
  if (v2_) {
    used_file_ = cpu.directories[tightest] + "/cpu.stat";
    return;
  }
  // The other hierarchy may have other groups.
  const ControlGroup accounts = FindControlGroup("cpuacct");
  const auto name = [](const ControlGroup& group, size_t i) {
    return group.directories[i].substr(group.directories.back().size());
  };
  if (tightest < accounts.directories.size() &&
      name(accounts, tightest) == name(cpu, tightest)) {
    used_file_ = accounts.directories[tightest] + "/cpuacct.usage";
  }
}

bool CpuReader::has_quota() const { return !std::isinf(quota_); }

void CpuReader::Read(bool quota_only, CpuReading* reading) const {
  reading->now_ns = ClockNs(CLOCK_MONOTONIC);
  reading->quota = quota_;
  if (has_quota()) {
    const std::string text = used_file_.empty() ? "" : ReadText(used_file_);
    int64_t used = 0;
    std::string word;
    std::istringstream words(text);
    if (!v2_ && words >> used) {
      reading->quota_used_ns = used;
    } else if (v2_ && words >> word >> used) {  // "usage_usec N"
      reading->quota_used_ns = used * 1000;
    } else {
      reading->quota_used_ns = ClockNs(CLOCK_PROCESS_CPUTIME_ID);
    }
  }
  if (quota_only) return;
  cpu_set_t usable;
  CPU_ZERO(&usable);
  // The process's CPUs, whatever thread reads. Fails if the machine has more
  // CPUs than the set has room for.
  const bool known = sched_getaffinity(getpid(), sizeof(usable), &usable) == 0;
  reading->cpus = known ? CPU_COUNT(&usable)
                        : std::max(1u, std::thread::hardware_concurrency());
  reading->cpus_busy_ns = ParseBusyNs(
      ReadText("/proc/stat"),
      [&](int cpu) {
        return !known || (cpu < CPU_SETSIZE && CPU_ISSET(cpu, &usable));
      },
      sysconf(_SC_CLK_TCK));
}

}  // namespace tf_model_pool
