// SPDX-License-Identifier: Apache-2.0
//
// The CPU time that loads may use: a part of what requests leave.

#ifndef TF_ALLOCATOR_SCHED_CPU_SHARE_H_
#define TF_ALLOCATOR_SCHED_CPU_SHARE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <string>

namespace tf_model_pool {

// The state that CpuShare decides by, at one moment. Counts of nanoseconds only
// grow.
struct CpuReading {
  int64_t now_ns = 0;  // monotonic
  // The CPUs that this process may run on, and how long they were busy.
  double cpus = 1;
  int64_t cpus_busy_ns = 0;
  // The control group with the least CPU time per second, in CPUs, and what it
  // has used.
  double quota = std::numeric_limits<double>::infinity();
  int64_t quota_used_ns = 0;
  // CPU time of the threads that give way.
  int64_t loads_ns = 0;
};

// Not thread-safe.
class CpuShare {
 public:
  // Forgets what was seen: a load begins.
  void Begin() { seen_ = false; }

  // Takes a reading into account. Wants one every few milliseconds if there is
  // a quota, and else one in kLookNs.
  void Look(const CpuReading& reading);

  // The CPUs that all loads together may use: more than 0. No more than the
  // floor while the group has so nearly used its quota up that the kernel might
  // stop everybody; it may be requests alone that do, so loads do not wait for
  // the end of that.
  double share() const { return quota_is_short_ ? floor_ : share_; }

  // The part of what requests leave; the rest is for their bursts
  // (docs/results/decisions.md).
  static constexpr double kOfWhatIsLeft = 0.4;
  static constexpr int64_t kLookNs = 100'000'000;
  // The kernel's default (cpu.max, cpu.cfs_period_us). Quotas of longer periods
  // are watched as if they had this one, which is stricter.
  static constexpr int64_t kPeriodNs = 100'000'000;

 private:
  double Floor(const CpuReading& reading) const;

  bool seen_ = false;
  CpuReading last_;      // at the last look
  double others_ = 0;    // CPUs that requests and other processes use
  double in_group_ = 0;  // the same, of the quota
  double share_ = 0.1;
  double floor_ = 0.1;
  bool quota_is_short_ = false;
  struct Used {
    int64_t now_ns;
    int64_t used_ns;
  };
  std::deque<Used> period_;  // a period's, oldest first
};

// Lets one thread use `share` of a CPU, in short turns.
class Turns {
 public:
  void Begin(int64_t now_ns, int64_t cpu_ns) {
    now_ns_ = now_ns;
    cpu_ns_ = cpu_ns;
    saved_ns_ = 0;
  }
  // `cpu_ns` is what the thread has used so far. Returns for how long it is to
  // pause; 0 = it may go on. Time that it spent waiting for a CPU counts as a
  // pause, so that it gets its share of a busy machine too. One that has hardly
  // used any since the last call waits for something: that is left alone.
  int64_t Pause(int64_t now_ns, int64_t cpu_ns, double share);

  // The pause that makes up for all that was used too much up to the last call.
  int64_t Owed(double share) const;

  // A turn, if the thread gets a CPU at once.
  static constexpr int64_t kTurnNs = 250'000;
  // The most that can be saved up while waiting.
  static constexpr int64_t kMaxSavedNs = 1'000'000;
  // The kernel does not look for others to run during shorter sleeps.
  static constexpr int64_t kShortestNs = 50'000;
  // Others may wait for a lock of the thread; what is due beyond this follows
  // after another turn, in which it lets go.
  static constexpr int64_t kLongestNs = 3'000'000;

 private:
  int64_t now_ns_ = 0;
  int64_t cpu_ns_ = 0;
  int64_t saved_ns_ = 0;  // CPU time; negative = too much used
};

// Time for which CPUs were busy, of those for which `counts`, from the text of
// /proc/stat, whose unit is ticks of 1 / `ticks_per_second`.
int64_t ParseBusyNs(const std::string& proc_stat,
                    const std::function<bool(int cpu)>& counts,
                    int64_t ticks_per_second);

// CPUs' worth from cpu.max (v2: "QUOTA PERIOD" or "max PERIOD") or from
// cpu.cfs_quota_us and cpu.cfs_period_us (v1); infinity if there is no limit or
// the text says nothing.
double ParseQuotaV2(const std::string& cpu_max);
double ParseQuotaV1(const std::string& quota_us, const std::string& period_us);

// Reads the machine. Keeps the files' names, not the files.
class CpuReader {
 public:
  CpuReader();
  // Fills all but loads_ns. With `quota_only`, leaves cpus_busy_ns as it is.
  void Read(bool quota_only, CpuReading* reading) const;
  bool has_quota() const;

 private:
  double quota_;
  // The group's; "" = count this process alone.
  std::string used_file_;
  bool v2_ = false;
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_SCHED_CPU_SHARE_H_
