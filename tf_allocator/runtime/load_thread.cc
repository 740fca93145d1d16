// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/runtime/load_thread.h"

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "tf_allocator/pool/settings.h"
#include "tf_allocator/runtime/process_settings.h"

namespace tf_model_pool {
namespace {

// A tenth of the weight of a thread with nice 0 (the kernel's
// sched_prio_to_weight: 110 to 1024).
constexpr int kLowNice = 10;

// What a load thread and the one that waits for it say to each other.
class Loading {
 public:
  Loading() : waiting_thread_(std::this_thread::get_id()) {}

  // On the load thread.
  void RunOnWaitingThread(const std::function<void()>& work) {
    std::unique_lock<std::mutex> lock(mu_);
    errand_ = &work;
    changed_.notify_all();
    changed_.wait(lock, [this] { return errand_ == nullptr; });
  }
  void Done() {
    const std::lock_guard<std::mutex> lock(mu_);
    done_ = true;
    changed_.notify_all();
  }

  // On the waiting one: until Done().
  void Wait() {
    std::unique_lock<std::mutex> lock(mu_);
    for (;;) {
      changed_.wait(lock, [this] { return done_ || errand_ != nullptr; });
      if (errand_ == nullptr) return;
      lock.unlock();
      (*errand_)();
      lock.lock();
      errand_ = nullptr;
      changed_.notify_all();
    }
  }

  std::thread::id waiting_thread() const { return waiting_thread_; }

 private:
  const std::thread::id waiting_thread_;
  std::mutex mu_;
  std::condition_variable changed_;
  const std::function<void()>* errand_ = nullptr;
  bool done_ = false;
};

// On a load thread, what it is about.
thread_local Loading* on_load_thread = nullptr;

void LowerPriority(Settings::LoadPriority priority) {
  // Where the system refuses, the work is done at the caller's priority.
  if (priority == Settings::LoadPriority::kIdle) {
    sched_param none{};
    sched_setscheduler(0, SCHED_IDLE, &none);
  } else {
    const auto tid = static_cast<id_t>(syscall(SYS_gettid));
    setpriority(PRIO_PROCESS, tid, kLowNice);
  }
}

}  // namespace

void RunAtLoadPriority(const std::function<void()>& work) {
  const Settings& settings = ProcessSettings();
  const Settings::LoadPriority priority = settings.load_priority;
  if (!settings.enabled || on_load_thread != nullptr ||
      priority == Settings::LoadPriority::kNormal) {
    work();
    return;
  }
  Loading loading;
  std::thread thread([&] {
    on_load_thread = &loading;
    pthread_setname_np(pthread_self(), "tf_model_load");
    LowerPriority(priority);
    work();
    loading.Done();
  });
  loading.Wait();
  thread.join();
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

}  // namespace tf_model_pool
