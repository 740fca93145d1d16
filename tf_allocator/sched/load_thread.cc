// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/sched/load_thread.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tf_allocator/device/process_settings.h"
#include "tf_allocator/pool/at_fork.h"
#include "tf_allocator/pool/control_group.h"
#include "tf_allocator/pool/system_memory.h"
#include "tf_allocator/sched/cpu_share.h"

namespace tf_model_pool {
namespace {

constexpr int64_t kServesForNs = 10'000'000'000;
// Written at most this often, so that requests do not fight for the cache line.
constexpr int64_t kNoteEveryNs = 100'000'000;
constexpr auto kLookWhileNobodyServes = std::chrono::milliseconds(5);
constexpr int64_t kLookAtQuotaNs = 5'000'000;

std::atomic<int64_t> last_served_ns{-kServesForNs};

int64_t ClockNs(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

// struct sched_attr, which C libraries before 2.41 do not have.
struct SchedulingAttributes {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime_ns;  // of the fair classes: the slice, since Linux 6.12
  uint64_t deadline_ns;
  uint64_t period_ns;
};

// False if a system call that TensorFlow does not make may cost the process its
// life: a filter may kill whoever makes it, as SystemCallFilter=~@resources of
// systemd does. Those that containers are run with allow this one, and answer
// with an error what they do not (docs/results/decisions.md).
bool MayChangeScheduling() {
  const std::string status = ReadText("/proc/thread-self/status");
  if (!status.empty() && status.find("\nSeccomp:\t2") == std::string::npos) {
    return true;
  }
  return std::getenv("INVOCATION_ID") == nullptr &&  // no service of systemd
         (access("/.dockerenv", F_OK) == 0 ||
          access("/run/.containerenv", F_OK) == 0 ||
          std::getenv("KUBERNETES_SERVICE_HOST") != nullptr);
}

// Lets the calling thread run as soon as it wakes, on busy CPUs too, and not
// when the slice of what runs there ends (2.8 ms and more): the scheduler lets
// a short slice cut a longer one off. Needs no privileges, as priority and
// class stay.
void AskForShortestSlice() {
  constexpr uint64_t kShortest = 100'000;
  if (!MayChangeScheduling()) return;
  SchedulingAttributes attributes{};
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0 ||
      attributes.runtime_ns == 0) {  // a kernel that has no slices to set
    return;
  }
  attributes.runtime_ns = kShortest;
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

// A thread that gives way.
struct PacedThread {
  pthread_t thread;
  clockid_t cpu_clock;
  int64_t begun_ns;  // CPU time when it began to give way
  Turns turns;
  int blocked_signal = 0;  // that the thread blocked before; 0 = did not
  // The handler sleeps until then.
  std::atomic<int64_t> pause_until_ns{0};
};

thread_local PacedThread* this_thread = nullptr;
thread_local int depth = 0;
thread_local int64_t load_ended_ns = -kServesForNs;

void SleepUntilTurn(const PacedThread& paced) {
  const int64_t until = paced.pause_until_ns.load(std::memory_order_relaxed);
  const timespec time = {until / 1'000'000'000, until % 1'000'000'000};
  // Not clock_nanosleep, which a thread may be cancelled in.
  while (syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &time,
                 nullptr) != 0 &&
         errno == EINTR) {
  }
}

// On a thread that gives way, anywhere in its work. Calls nothing but the
// kernel.
void OnSignal(int, siginfo_t* info, void*) {
  // Any thread may get one that pthread_kill() has not sent, in malloc too,
  // which the first use of a thread-local variable may call.
  if (info->si_code != SI_TKILL) return;
  const int saved_errno = errno;
  if (this_thread != nullptr) SleepUntilTurn(*this_thread);
  errno = saved_errno;
}

// Changes the calling thread's mask by one signal; returns the one before.
sigset_t Mask(int how, int signal_number) {
  sigset_t set, before;
  sigemptyset(&set);
  sigaddset(&set, signal_number);
  pthread_sigmask(how, &set, &before);
  return before;
}

bool IsOurs(int signal_number) {
  struct sigaction action{};
  return sigaction(signal_number, nullptr, &action) == 0 &&
         (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == OnSignal;
}

// Makes OnSignal the handler of a signal that nobody else uses; returns
// it, or 0 if there is none. SIGURG first: whoever gets one by mistake ignores
// it, and debuggers pass it on.
int TakeSignal() {
  for (int i = 0; i < 9; ++i) {
    const int candidate = i == 0 ? SIGURG : SIGRTMAX - i;
    struct sigaction before{};
    if (sigaction(candidate, nullptr, &before) != 0 ||
        (before.sa_flags & SA_SIGINFO) != 0 || before.sa_handler != SIG_DFL) {
      continue;
    }
    struct sigaction ours{};
    ours.sa_sigaction = OnSignal;
    ours.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    sigfillset(&ours.sa_mask);
    if (sigaction(candidate, &ours, nullptr) == 0) return candidate;
  }
  return 0;
}

// Sees to it that threads which give way use no more than their share.
class Pacer {
 public:
  static Pacer& OfProcess() {
    // Never destroyed: its thread runs as long as the process.
    static Pacer* const pacer = [] {
      auto* made = new Pacer;
      AtFork([made] { made->mu_.lock(); }, [made] { made->mu_.unlock(); },
             [made] { made->BeginChild(); });
      return made;
    }();
    return *pacer;
  }

  // The calling thread. Returns false, or throws, if it cannot be paced: it
  // works as ever.
  bool Add(PacedThread* paced) {
    const std::lock_guard<std::mutex> lock(mu_);
    if (signal_ == 0 || !IsOurs(signal_)) signal_ = TakeSignal();
    if (signal_ == 0) return false;
    if (!running_) {
      std::thread([this] { Loop(); }).detach();
      running_ = true;
      CallBeforeFaults(tf_model_pool::PauseHere);
    }
    if (threads_.empty()) {
      share_.Begin();
      reader_ = CpuReader();  // limits may have changed since the last load
    }
    threads_.push_back(paced);
    // The signal must reach the thread, whatever it blocks.
    const sigset_t before = Mask(SIG_UNBLOCK, signal_);
    if (sigismember(&before, signal_)) paced->blocked_signal = signal_;
    changed_.notify_all();
    return true;
  }

  void Remove(PacedThread* paced) {
    const std::lock_guard<std::mutex> lock(mu_);
    const auto it = std::find(threads_.begin(), threads_.end(), paced);
    if (it == threads_.end()) return;
    loads_ended_ns_ += ClockNs(paced->cpu_clock) - paced->begun_ns;
    threads_.erase(it);
  }

  // On the paced thread: sleeps until it owes nothing.
  void PauseHere(PacedThread* paced) {
    while (Serving()) {
      int64_t until;
      {
        const std::lock_guard<std::mutex> lock(mu_);
        const int64_t now = ClockNs(CLOCK_MONOTONIC);
        LookIfDue(now);
        paced->turns.Pause(now, ClockNs(paced->cpu_clock), ShareOfOne());
        const int64_t owed = paced->turns.Owed(ShareOfOne());
        if (owed == 0) return;
        // The share may change meanwhile.
        until = now + std::min(owed, CpuShare::kLookNs);
      }
      // Not with the lock: a signal on its way would sleep for as long with it.
      paced->pause_until_ns = until;
      SleepUntilTurn(*paced);
    }
  }

  // CPUs' worth that all threads which give way may use.
  double Share() {
    const std::lock_guard<std::mutex> lock(mu_);
    return share_.share();
  }

 private:
  // In a forked process, which has the calling thread alone, under another id:
  // if that gave way it does so no more.
  void BeginChild() {
    threads_.clear();
    running_ = false;
    // Threads may have been waiting for it.
    new (&changed_) std::condition_variable;
    share_.Begin();
    mu_.unlock();
  }

  void Loop() {
    pthread_setname_np(pthread_self(), "tf_model_pacer");
    prctl(PR_SET_TIMERSLACK, 1);
    try {
      AskForShortestSlice();
    } catch (const std::exception&) {
      // No memory to find out whether it may.
    }
    std::unique_lock<std::mutex> lock(mu_);
    for (;;) {
      changed_.wait(lock, [this] { return !threads_.empty(); });
      if (!Serving()) {
        share_.Begin();
        const int64_t now = ClockNs(CLOCK_MONOTONIC);
        for (PacedThread* paced : threads_) {
          paced->turns.Begin(now, ClockNs(paced->cpu_clock));
        }
        changed_.wait_for(lock, kLookWhileNobodyServes);
        continue;
      }
      const timespec turn = {0, Pace()};
      lock.unlock();
      nanosleep(&turn, nullptr);
      lock.lock();
    }
  }

  // Returns for how long nothing is to be done: a turn more than any of the
  // threads pauses.
  int64_t Pace() {
    const int64_t now = ClockNs(CLOCK_MONOTONIC);
    LookIfDue(now);
    int64_t shortest = Turns::kLongestNs;
    for (PacedThread* paced : threads_) {
      const int64_t pause =
          paced->turns.Pause(now, ClockNs(paced->cpu_clock), ShareOfOne());
      // Not still in its last one, and nobody has taken the signal since.
      if (pause > 0 && paced->pause_until_ns <= now && IsOurs(signal_)) {
        paced->pause_until_ns = now + pause;
        pthread_kill(paced->thread, signal_);
      }
      shortest =
          std::min(shortest, std::max<int64_t>(0, paced->pause_until_ns - now));
    }
    return shortest + Turns::kTurnNs;
  }

  double ShareOfOne() const {
    return share_.share() / static_cast<double>(threads_.size());
  }

  void LookIfDue(int64_t now) {
    if (now - looked_ns_ <
        (reader_.has_quota() ? kLookAtQuotaNs : CpuShare::kLookNs)) {
      return;
    }
    const bool full = now - looked_at_all_ns_ >= CpuShare::kLookNs;
    looked_ns_ = now;
    if (full) looked_at_all_ns_ = now;
    CpuReading reading = last_;
    try {
      reader_.Read(/*quota_only=*/!full, &reading);
      reading.loads_ns = loads_ended_ns_;
      for (const PacedThread* paced : threads_) {
        reading.loads_ns += ClockNs(paced->cpu_clock) - paced->begun_ns;
      }
      share_.Look(reading);
      last_ = reading;
    } catch (const std::exception&) {
      // No memory for it: until the next look the share stays as it is.
    }
  }

  std::mutex mu_;
  std::condition_variable changed_;
  bool running_ = false;
  int signal_ = 0;
  std::vector<PacedThread*> threads_;
  int64_t loads_ended_ns_ = 0;
  CpuShare share_;
  CpuReader reader_;
  CpuReading last_;
  int64_t looked_ns_ = 0;
  int64_t looked_at_all_ns_ = 0;
};

bool GivesWay() {
  const Settings& settings = ProcessSettings();
  return settings.enabled &&
         settings.load_priority != Settings::LoadPriority::kNormal;
}

}  // namespace

GiveWay::GiveWay() {
  if (!GivesWay() || ++depth > 1) return;
  std::unique_ptr<PacedThread> paced;
  try {
    paced = std::make_unique<PacedThread>();
    paced->thread = pthread_self();
    if (pthread_getcpuclockid(paced->thread, &paced->cpu_clock) != 0) return;
    paced->begun_ns = ClockNs(paced->cpu_clock);
    paced->turns.Begin(ClockNs(CLOCK_MONOTONIC), paced->begun_ns);
    // The handler may run as soon as the thread is known.
    this_thread = paced.get();
    if (Pacer::OfProcess().Add(this_thread)) {
      paced.release();
      return;
    }
  } catch (const std::exception&) {
    // Nothing to pace it with is no reason to fail a load.
  }
  this_thread = nullptr;
}

GiveWay::~GiveWay() {
  if (!GivesWay() || --depth > 0) return;
  load_ended_ns = ClockNs(CLOCK_MONOTONIC_COARSE);
  if (this_thread == nullptr) return;
  Pacer::OfProcess().Remove(this_thread);
  if (this_thread->blocked_signal != 0) {
    Mask(SIG_BLOCK, this_thread->blocked_signal);
  }
  // A signal may still be on its way.
  delete std::exchange(this_thread, nullptr);
}

void RunAtLoadPriority(const std::function<void()>& work) {
  const GiveWay give_way;
  work();
}

void PauseHere() {
  if (this_thread != nullptr && Serving()) {
    Pacer::OfProcess().PauseHere(this_thread);
  }
}

int AllowedThreads() {
  const int cpus =
      static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  if (this_thread == nullptr || !Serving()) return cpus;
  return std::max(1,
                  std::min(cpus, static_cast<int>(Pacer::OfProcess().Share())));
}

void NoteServing() {
  if (this_thread != nullptr) return;
  const int64_t now = ClockNs(CLOCK_MONOTONIC_COARSE);
  if (now - load_ended_ns < kServesForNs) return;
  if (now - last_served_ns.load(std::memory_order_relaxed) >= kNoteEveryNs) {
    last_served_ns.store(now, std::memory_order_relaxed);
  }
}

bool Serving() {
  return ClockNs(CLOCK_MONOTONIC_COARSE) -
             last_served_ns.load(std::memory_order_relaxed) <
         kServesForNs;
}

}  // namespace tf_model_pool
