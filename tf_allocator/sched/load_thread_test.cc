// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/sched/load_thread.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iostream>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tf_allocator/device/process_settings.h"
#include "tf_allocator/device/settings.h"
#include "tf_allocator/pool/control_group.h"
#include "tf_allocator/pool/testing/child.h"
#include "tf_allocator/sched/cpu_share.h"
#include "tf_allocator/sched/testing/request.h"

namespace {
// Allocations of this thread that succeed before one fails; -1 = none fails.
thread_local int64_t allocations_left = -1;
}  // namespace

// A sanitizer has its own.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TF_MODEL_POOL_TEST_ALLOCATIONS_FAIL
__attribute__((noinline)) void* operator new(size_t bytes) {
  if (allocations_left >= 0 && allocations_left-- == 0) throw std::bad_alloc();
  if (void* p = std::malloc(bytes)) return p;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* p) noexcept {
  std::free(p);
}
void operator delete(void* p, size_t) noexcept { operator delete(p); }
#endif

namespace tf_model_pool {
namespace {
Settings test_settings;
}  // namespace

// In place of the one that reads the environment.
const Settings& ProcessSettings() { return test_settings; }

namespace {

int64_t ThreadCpuNs() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

// Counts how often the calling thread let go of its CPU by itself.
int64_t Sleeps() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

void UseCpuNs(int64_t ns) {
  const int64_t end = ThreadCpuNs() + ns;
  while (ThreadCpuNs() < end) {
  }
}

constexpr int64_t kMs = 1'000'000;

// Sleeps while it used 200 ms of CPU time.
int64_t SleepsInWork() {
  const int64_t before = Sleeps();
  UseCpuNs(200 * kMs);
  return Sleeps() - before;
}

// Fails if `test` does, which runs in a new process: nothing has been served in
// it yet.
void InNewProcess(const std::function<void()>& test) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(
      {
        test();
        const testing::TestResult& result =
            *testing::UnitTest::GetInstance()->current_test_info()->result();
        for (int i = 0; i < result.total_part_count(); ++i) {
          std::cerr << result.GetTestPartResult(i);
        }
        _exit(result.Failed() ? 1 : 0);
      },
      testing::ExitedWithCode(0), "");
}

class LoadThreadTest : public testing::Test {
 protected:
  void SetUp() override { test_settings = Settings(); }
  void TearDown() override { test_settings = Settings(); }
};

TEST_F(LoadThreadTest, ALoadDoesNotPauseWhileNothingServes) {
  InNewProcess([] {
    ASSERT_FALSE(Serving());
    const GiveWay give_way;
    EXPECT_LT(SleepsInWork(), 5);
    const int64_t before = Sleeps();
    PauseHere();
    EXPECT_EQ(Sleeps(), before);
    EXPECT_EQ(AllowedThreads(),
              static_cast<int>(std::thread::hardware_concurrency()));
  });
}

TEST_F(LoadThreadTest, ALoadPausesWhileModelsServe) {
  ServeRequest();
  ASSERT_TRUE(Serving());
  int64_t inside = 0;
  {
    const GiveWay give_way;
    inside = SleepsInWork();
  }
  const int64_t outside = SleepsInWork();
  // A machine that runs other things gives it fewer turns.
  EXPECT_GT(inside, 20);
  EXPECT_LT(outside, 5);
}

TEST_F(LoadThreadTest, ItsSchedulingStaysAsItIs) {
  ServeRequest();
  const auto how = [] {
    return std::make_pair(
        sched_getscheduler(0),
        getpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid))));
  };
  const auto before = how();
  const GiveWay give_way;
  EXPECT_EQ(how(), before);
  std::thread([&] { EXPECT_EQ(how(), before); }).join();
}

// The kernel's word on a thread, as struct sched_attr: class, flags, nice
// value, priority, slice.
struct Scheduling {
  uint32_t size = 0;
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t slice_ns = 0;
  uint64_t rest[2] = {};
};

Scheduling SchedulingOf(long thread) {
  Scheduling found;
  syscall(SYS_sched_getattr, thread, &found, sizeof(found), 0);
  return found;
}

TEST_F(LoadThreadTest, ThePacerHasAShorterSliceAndNoOtherPriority) {
  ServeRequest();
  const GiveWay give_way;
  long pacer = 0;
  while (pacer == 0) {
    for (const auto& task :
         std::filesystem::directory_iterator("/proc/self/task")) {
      std::string name;
      std::ifstream(task.path() / "comm") >> name;
      if (name == "tf_model_pacer") {
        pacer = std::stol(task.path().filename().string());
      }
    }
  }
  const Scheduling own = SchedulingOf(0);
  Scheduling its = SchedulingOf(pacer);
  EXPECT_EQ(its.policy, own.policy);
  EXPECT_EQ(its.nice, own.nice);
  if (own.slice_ns == 0) GTEST_SKIP() << "this kernel has no slices to set";
  // It names itself before it asks.
  while (its.slice_ns == own.slice_ns) its = SchedulingOf(pacer);
  EXPECT_LT(its.slice_ns, own.slice_ns);
}

TEST_F(LoadThreadTest, AFilterThatKillsForChangedSchedulingKillsNobody) {
  InNewProcess([] {
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sched_setattr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const sock_fprog filter = {4, program};
    // As for a service of systemd.
    setenv("INVOCATION_ID", "1", 1);
    ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
    NoteServing();
    const GiveWay give_way;
    EXPECT_GT(SleepsInWork(), 20);
  });
}

TEST_F(LoadThreadTest, WhatALoadRunsIsNoRequest) {
  InNewProcess([] {
    const GiveWay give_way;
    NoteServing();
    EXPECT_FALSE(Serving());
  });
}

// The loads of a server's other models, when it starts, give way to nobody.
TEST_F(LoadThreadTest, AWarmUpAfterALoadIsNoRequest) {
  InNewProcess([] {
    RunAtLoadPriority([] {});
    NoteServing();
    EXPECT_FALSE(Serving());
    ServeRequest();
    EXPECT_TRUE(Serving());
  });
}

TEST_F(LoadThreadTest, SettingsCanForbidIt) {
  ServeRequest();
  test_settings.load_priority = Settings::LoadPriority::kNormal;
  {
    const GiveWay give_way;
    EXPECT_LT(SleepsInWork(), 5);
  }
  test_settings = Settings();
  test_settings.enabled = false;
  const GiveWay give_way;
  EXPECT_LT(SleepsInWork(), 5);
}

TEST_F(LoadThreadTest, ExceptionsReachTheCaller) {
  ServeRequest();
  EXPECT_THROW(RunAtLoadPriority([] { throw std::runtime_error("here"); }),
               std::runtime_error);
  // And the thread gives way no more.
  EXPECT_LT(SleepsInWork(), 5);
}

TEST_F(LoadThreadTest, ALoadThatCannotBePacedIsAsEver) {
#ifndef TF_MODEL_POOL_TEST_ALLOCATIONS_FAIL
  GTEST_SKIP() << "allocations cannot be made to fail under a sanitizer";
#endif
  // In a new process, where the first one makes the pacer.
  InNewProcess([] {
    NoteServing();
    int failed = 0;
    for (bool enough = false; !enough; ++failed) {
      ASSERT_LT(failed, 10'000);
      allocations_left = failed;
      {
        const GiveWay give_way;
        enough = allocations_left >= 0;
        allocations_left = -1;
        PauseHere();
      }
    }
    EXPECT_GT(failed, 5);
    EXPECT_LT(SleepsInWork(), 5);
    const GiveWay give_way;
    EXPECT_GT(SleepsInWork(), 20);
  });
}

TEST_F(LoadThreadTest, MayBeNested) {
  ServeRequest();
  RunAtLoadPriority([] {
    RunAtLoadPriority([] {});
    EXPECT_GT(SleepsInWork(), 20);
  });
}

TEST_F(LoadThreadTest, PausesWhereAllSignalsAreBlocked) {
  ServeRequest();
  std::thread([] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    const GiveWay give_way;
    EXPECT_GT(SleepsInWork(), 20);
  }).join();
}

TEST_F(LoadThreadTest, WhatAThreadBlocksIsBlockedAgainAfterwards) {
  const auto blocked = [] {
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, nullptr, &now);
    return std::make_pair(sigismember(&now, SIGURG),
                          sigismember(&now, SIGUSR1));
  };
  const auto before_and_after = [&](std::initializer_list<int> signals) {
    std::thread([&] {
      sigset_t set;
      sigemptyset(&set);
      for (const int each : signals) sigaddset(&set, each);
      pthread_sigmask(SIG_BLOCK, &set, nullptr);
      const auto before = blocked();
      {
        const GiveWay give_way;
      }
      EXPECT_EQ(blocked(), before);
    }).join();
  };
  before_and_after({SIGURG, SIGUSR1});
  before_and_after({SIGUSR1});
  before_and_after({});
}

TEST_F(LoadThreadTest, WhatTheKernelDidInOnePieceIsPaidForBetweenPieces) {
  ServeRequest();
  const GiveWay give_way;
  // As in a system call or a page fault, no signal reaches the thread.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int64_t sleeps = Sleeps();
  UseCpuNs(40 * kMs);
  EXPECT_LT(Sleeps() - sleeps, 5);
  timespec begin{}, end{};
  clock_gettime(CLOCK_MONOTONIC, &begin);
  PauseHere();
  clock_gettime(CLOCK_MONOTONIC, &end);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  const int64_t slept =
      (end.tv_sec - begin.tv_sec) * 1'000'000'000 + end.tv_nsec - begin.tv_nsec;
  // Longer than anywhere else: nobody waits for it here.
  EXPECT_GT(slept, Turns::kLongestNs);
}

TEST_F(LoadThreadTest, OthersDoNotPauseThere) {
  ServeRequest();
  const int64_t before = Sleeps();
  UseCpuNs(10 * kMs);
  PauseHere();
  EXPECT_LT(Sleeps() - before, 5);
}

// Waits again and again until nothing has interrupted 20 in a row, or not for
// long. Returns how many in a row nothing has.
int UninterruptedWaits() {
  int in_a_row = 0;
  for (int i = 0; i < 100 && in_a_row < 20; ++i) {
    const bool interrupted = poll(nullptr, 0, 10) < 0 && errno == EINTR;
    in_a_row = interrupted ? 0 : in_a_row + 1;
  }
  return in_a_row;
}

TEST_F(LoadThreadTest, AWaitIsNotInterrupted) {
  ServeRequest();
  const GiveWay give_way;
  UseCpuNs(10 * kMs);
  // Signals may still be on their way, and under a sanitizer a handler uses CPU
  // time enough for the next one. After those there are none.
  EXPECT_EQ(UninterruptedWaits(), 20);
}

// Puts this process into a control group that may use half a CPU, if such a
// group can be made here.
class HalfACpu {
 public:
  HalfACpu() {
    const ControlGroup cpu = FindControlGroup("cpu");
    if (cpu.version == 0) return;
    outside_ = cpu.directories.back();
    inside_ = outside_ + "/tf_model_pool_test_" + std::to_string(getpid());
    if (cpu.version == 2) Write(outside_ + "/cgroup.subtree_control", "+cpu");
    there_ = mkdir(inside_.c_str(), 0755) == 0 &&
             (cpu.version == 2 ? Write(inside_ + "/cpu.max", "50000 100000")
                               : Write(inside_ + "/cpu.cfs_quota_us", "50000"));
    there_ = there_ && Enter(inside_);
  }
  ~HalfACpu() {
    if (there_) Enter(outside_);
    rmdir(inside_.c_str());
  }
  bool there() const { return there_; }

 private:
  static bool Write(const std::string& path, const std::string& text) {
    return static_cast<bool>(std::ofstream(path) << text << std::flush);
  }
  static bool Enter(const std::string& group) {
    return Write(group + "/cgroup.procs", std::to_string(getpid()));
  }

  std::string outside_, inside_;
  bool there_ = false;
};

TEST_F(LoadThreadTest, AWaitIsNotInterruptedThoughRequestsUseAQuotaUp) {
  const HalfACpu quota;
  if (!quota.there()) GTEST_SKIP() << "no control group can be made here";
  ServeRequest();
  std::atomic<bool> done{false};
  std::thread requests([&] {
    while (!done) NoteServing();
  });
  {
    const GiveWay give_way;
    UseCpuNs(10 * kMs);
    EXPECT_EQ(UninterruptedWaits(), 20);
  }
  done = true;
  requests.join();
}

TEST_F(LoadThreadTest, LeavesASignalAloneThatOthersHandle) {
  // Somebody takes the one that is in use.
  static std::atomic<int> theirs{0};
  struct sigaction action{};
  action.sa_handler = [](int) { ++theirs; };
  struct sigaction before{};
  ASSERT_EQ(sigaction(SIGURG, &action, &before), 0);
  ServeRequest();
  {
    const GiveWay give_way;
    EXPECT_GT(SleepsInWork(), 20);
  }
  EXPECT_EQ(theirs, 0);
  struct sigaction now{};
  sigaction(SIGURG, nullptr, &now);
  EXPECT_EQ(now.sa_handler, action.sa_handler);
  sigaction(SIGURG, &before, nullptr);
}

TEST_F(LoadThreadTest, ManyThreadsShareWhatThereIs) {
  ServeRequest();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] {
      const GiveWay give_way;
      EXPECT_GT(SleepsInWork(), 20);
      EXPECT_GE(AllowedThreads(), 1);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(LoadThreadTest, AForkedChildLoadsAsItsParentDoes) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer forbids threads in a forked child";
#endif
  ServeRequest();
  const GiveWay give_way;
  UseCpuNs(10 * kMs);
  const int status = StatusOfChild([] {
    bool paused = false;
    std::thread([&] {
      const GiveWay give_way;
      paused = SleepsInWork() > 20;
    }).join();
    return paused;
  });
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace tf_model_pool
