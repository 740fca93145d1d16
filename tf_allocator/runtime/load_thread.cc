// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/runtime/load_thread.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tensorflow/core/platform/logging.h"
#include "tf_allocator/pool/cpu_idle_share.h"
#include "tf_allocator/pool/settings.h"
#include "tf_allocator/pool/thread_priority.h"
#include "tf_allocator/runtime/process_settings.h"

namespace tf_model_pool {
namespace {

using Priority = Settings::LoadPriority;

// With less than this share of the CPUs idle, kAuto is kLow.
constexpr double kSpare = 0.08;
// How often that is looked at, and over how many of /proc/stat's ticks at least
// (10 ms of one CPU each), whose rounding is not to matter.
constexpr auto kLookEvery = std::chrono::seconds(1);
constexpr uint64_t kFewestTicks = 20;
// A load thread is starved if, for this long, it was ready to run and had no
// CPU for this share of the time.
constexpr auto kStarvationWindow = std::chrono::seconds(1);
constexpr double kStarvedShare = 0.8;

// How long thread `tid` of this process has waited for a CPU; 0 where the
// kernel does not say.
std::chrono::nanoseconds WaitedForCpu(pid_t tid) {
  std::ifstream file("/proc/self/task/" + std::to_string(tid) + "/schedstat");
  int64_t ran = 0;
  int64_t waited = 0;
  file >> ran >> waited;
  return std::chrono::nanoseconds(waited);
}

int UsableCpus() {
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// A load thread, and what it and the one that waits for it say to each other.
// Never destroyed: the thread runs as long as the process.
class LoadThread {
 public:
  // `priority` is kLow or kIdle.
  explicit LoadThread(Priority priority) : priority_(priority) {
    std::thread([this] { Loop(); }).detach();
  }

  // On the waiting thread, one at a time.
  void Run(CpuUse use, const std::function<void()>& work) {
    cpu_use_ = use;
    const bool watched = priority_ == Priority::kIdle &&
                         ProcessSettings().load_priority == Priority::kAuto;
    starved_ = false;
    std::unique_lock<std::mutex> lock(mu_);
    waiting_thread_ = std::this_thread::get_id();
    work_ = &work;
    changed_.notify_all();
    const auto called = [this] {
      return work_ == nullptr || errand_ != nullptr;
    };
    std::chrono::nanoseconds waited{0};
    for (bool first = true;; first = false) {
      if (!watched) {
        changed_.wait(lock, called);
      } else if (!changed_.wait_for(lock, kStarvationWindow, called)) {
        const std::chrono::nanoseconds until_now = WaitedForCpu(tid_);
        if (!first && until_now - waited > kStarvedShare * kStarvationWindow) {
          Starves();
        }
        waited = until_now;
        continue;
      }
      if (errand_ == nullptr) break;
      lock.unlock();
      (*errand_)();
      lock.lock();
      errand_ = nullptr;
      changed_.notify_all();
    }
    if (raised_) {
      sched_param none{};
      raised_ = sched_setscheduler(tid_, SCHED_IDLE, &none) != 0;
    }
  }

  // On this one, in Run.
  void RunOnWaitingThread(const std::function<void()>& errand) {
    std::unique_lock<std::mutex> lock(mu_);
    errand_ = &errand;
    changed_.notify_all();
    changed_.wait(lock, [this] { return errand_ == nullptr; });
  }
  std::thread::id waiting_thread() const { return waiting_thread_; }

  Priority priority() const { return priority_; }
  CpuUse cpu_use() const { return cpu_use_; }
  // Requests have left it no time, and it could not be helped.
  bool starved() const { return starved_; }

 private:
  void Loop();

  void Starves() {
    if (raised_ || starved_) return;
    // What takes privileges: CAP_SYS_NICE, or RLIMIT_NICE of at least 10.
    sched_param none{};
    if (sched_setscheduler(tid_, SCHED_OTHER, &none) == 0) {
      SetLowNice(tid_);
      raised_ = true;
      return;
    }
    starved_ = true;
    LOG(WARNING) << "A model is being loaded with what CPU time requests leave "
                    "over, which is nearly none. Its next steps will run at "
                    "nice "
                 << kLowNice
                 << "; TF_MODEL_POOL_LOAD_PRIORITY=low does so from "
                 << "the start.";
  }

  const Priority priority_;
  std::mutex mu_;
  std::condition_variable changed_;
  const std::function<void()>* work_ = nullptr;
  const std::function<void()>* errand_ = nullptr;
  std::thread::id waiting_thread_;
  CpuUse cpu_use_;
  std::atomic<pid_t> tid_{0};
  std::atomic<bool> starved_{false};
  bool raised_ = false;  // the waiting thread's
};

thread_local LoadThread* on_load_thread = nullptr;

void LoadThread::Loop() {
  on_load_thread = this;
  tid_ = static_cast<pid_t>(syscall(SYS_gettid));
  pthread_setname_np(pthread_self(), "tf_model_load");
  LowerThreadPriority(priority_);
  std::unique_lock<std::mutex> lock(mu_);
  for (;;) {
    changed_.wait(lock, [this] { return work_ != nullptr; });
    lock.unlock();
    (*work_)();
    lock.lock();
    work_ = nullptr;
    changed_.notify_all();
  }
}

// What share of the CPUs has been idle lately. Looks once a second from the
// first load on: a load should not have to wait for the answer.
class SpareTime {
 public:
  // From 0 to 1; 1 where too little is known.
  double Share() {
    const std::lock_guard<std::mutex> lock(mu_);
    // A forked process has none of its parent's threads.
    if (pid_ != getpid()) {
      pid_ = getpid();
      before_ = last_ = ReadCpuTicks();
      std::thread([this] { Look(); }).detach();
    }
    const CpuTicks now = ReadCpuTicks();
    const CpuTicks& since =
        now.all - last_.all >= kFewestTicks ? last_ : before_;
    return now.all - since.all < kFewestTicks ? 1 : IdleShare(since, now);
  }

 private:
  void Look() {
    pthread_setname_np(pthread_self(), "tf_model_look");
    for (;;) {
      std::this_thread::sleep_for(kLookEvery);
      const std::lock_guard<std::mutex> lock(mu_);
      before_ = last_;
      last_ = ReadCpuTicks();
    }
  }

  std::mutex mu_;
  pid_t pid_ = 0;
  CpuTicks before_;
  CpuTicks last_;
};

// All of them. The ones with nothing to do are kept: each thread's malloc has
// memory of its own, which the next load finds faulted in.
class LoadThreads {
 public:
  void Run(Priority priority, CpuUse use, const std::function<void()>& work) {
    LoadThread* const thread = Take(priority);
    thread->Run(use, work);
    const std::lock_guard<std::mutex> lock(mu_);
    of_[priority == Priority::kIdle].unused.push_back(thread);
    --of_[priority == Priority::kIdle].working;
  }

  // The same with what `wanted`, kAuto or kIdle, means now.
  void RunOnIdleCpus(Priority wanted, const std::function<void()>& work) {
    if (OthersAreIdle()) {
      // What the others take is what is left over.
      Run(Priority::kIdle, {1, /*pauses=*/true}, work);
      return;
    }
    const double share = spare_time_.Share();
    if (wanted == Priority::kAuto && share < kSpare) {
      Run(Priority::kLow, {1, /*pauses=*/false}, work);
      return;
    }
    Run(Priority::kIdle, UseOfIdleCpus(share, UsableCpus()), work);
  }

 private:
  // Whether there is other work of the idle class.
  bool OthersAreIdle() {
    const std::lock_guard<std::mutex> lock(mu_);
    return pid_ == getpid() && of_[true].working > 0;
  }

  LoadThread* Take(Priority priority) {
    {
      const std::lock_guard<std::mutex> lock(mu_);
      if (pid_ != getpid()) {
        of_[false] = of_[true] = {};
        pid_ = getpid();
      }
      auto& [unused, working] = of_[priority == Priority::kIdle];
      ++working;
      if (!unused.empty()) {
        LoadThread* const thread = unused.back();
        unused.pop_back();
        return thread;
      }
    }
    LoadThread* made = nullptr;
    // Not by a load thread, whose priority it would inherit.
    RunOnWaitingThread([&] { made = new LoadThread(priority); });
    return made;
  }

  struct Group {
    std::vector<LoadThread*> unused;
    int working = 0;
  };

  std::mutex mu_;
  pid_t pid_ = 0;
  Group of_[2];  // kLow, kIdle
  SpareTime spare_time_;
};

LoadThreads& Threads() {
  static LoadThreads* const threads = new LoadThreads;
  return *threads;
}

}  // namespace

void RunAtLoadPriority(const std::function<void()>& work) {
  const Settings& settings = ProcessSettings();
  const Priority priority = settings.load_priority;
  if (on_load_thread != nullptr && on_load_thread->starved()) {
    Threads().Run(Priority::kLow, {1, /*pauses=*/false}, work);
    return;
  }
  if (!settings.enabled || on_load_thread != nullptr ||
      priority == Priority::kNormal) {
    work();
  } else if (priority == Priority::kLow) {
    Threads().Run(priority, {UsableCpus(), /*pauses=*/false}, work);
  } else {
    Threads().RunOnIdleCpus(priority, work);
  }
}

void RunOnWaitingThread(const std::function<void()>& work) {
  if (on_load_thread == nullptr) {
    work();
  } else {
    on_load_thread->RunOnWaitingThread(work);
  }
}

std::thread::id LoadingThread() {
  return on_load_thread == nullptr ? std::this_thread::get_id()
                                   : on_load_thread->waiting_thread();
}

bool OnIdleThread() {
  return on_load_thread != nullptr &&
         on_load_thread->priority() == Priority::kIdle;
}

CpuUse AllowedCpuUse() {
  if (on_load_thread == nullptr) return {UsableCpus(), /*pauses=*/false};
  return on_load_thread->cpu_use();
}

}  // namespace tf_model_pool
