// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/load/unload_thread.h"

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "tf_allocator/pool/at_fork.h"
#include "tf_allocator/sched/load_thread.h"

namespace tf_model_pool {
namespace {

// A fork waits for sessions that end, as they do on the caller's thread without
// us, but not for ever: one may need what the thread that forks holds.
constexpr std::chrono::seconds kForkWaits(2);
// So does the end of the process, for a session that never ends.
constexpr std::chrono::seconds kExitWaits(10);

class UnloadThread {
 public:
  static UnloadThread& OfProcess() {
    // Never destroyed: its thread runs as long as the process.
    static UnloadThread* const made = [] {
      auto* thread = new UnloadThread;
      WaitBeforeFork([thread] { thread->WaitFor(kForkWaits); });
      AtFork([thread] { thread->mu_.lock(); },
             [thread] { thread->mu_.unlock(); },
             [thread] { thread->BeginChild(); });
      // No session may outlive what it uses.
      std::atexit([] { OfProcess().End(); });
      return thread;
    }();
    return *made;
  }

  // Returns false, with `work` as it was, if there is no thread to be had.
  bool Add(std::function<void()>* work) {
    const std::lock_guard<std::mutex> lock(mu_);
    if (ended_) return false;
    if (!running_) {
      try {
        std::thread([this] { Loop(); }).detach();
      } catch (const std::system_error&) {
        return false;
      }
      running_ = true;
    }
    queue_.push_back(std::move(*work));
    ++added_;
    changed_.notify_all();
    return true;
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mu_);
    const uint64_t until = added_;
    changed_.wait(lock, [&] { return Done(until); });
  }

  bool WaitFor(std::chrono::milliseconds at_most) {
    std::unique_lock<std::mutex> lock(mu_);
    const uint64_t until = added_;
    return changed_.wait_for(lock, at_most, [&] { return Done(until); });
  }

  // The process ends: what static destructors drop ends on their thread.
  void End() {
    {
      const std::lock_guard<std::mutex> lock(mu_);
      ended_ = true;
    }
    WaitFor(kExitWaits);
  }

 private:
  bool Done(uint64_t until) const { return done_ >= until || on_this_thread_; }

  // In a forked process, which has the calling thread alone. Work that was not
  // done in time stays with the parent: not even destroyed, as sessions join
  // threads when they end.
  void BeginChild() {
    new (&queue_) std::deque<std::function<void()>>;
    done_ = added_;
    running_ = false;
    new (&changed_) std::condition_variable;
    mu_.unlock();
  }

  void Loop() {
    pthread_setname_np(pthread_self(), "tf_model_unload");
    on_this_thread_ = true;
    std::unique_lock<std::mutex> lock(mu_);
    for (;;) {
      changed_.wait(lock, [this] { return !queue_.empty(); });
      std::function<void()> work = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      {
        const GiveWay give_way;
        work();
        work = nullptr;
      }
      lock.lock();
      ++done_;
      changed_.notify_all();
    }
  }

  // It must not wait for itself.
  static thread_local bool on_this_thread_;
  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  uint64_t added_ = 0;
  uint64_t done_ = 0;
  bool running_ = false;
  bool ended_ = false;
};

thread_local bool UnloadThread::on_this_thread_ = false;

}  // namespace

void RunOnUnloadThread(std::function<void()> work) {
  if (Serving() && UnloadThread::OfProcess().Add(&work)) return;
  work();
}

void WaitForUnloads() { UnloadThread::OfProcess().Wait(); }

bool WaitForUnloads(std::chrono::milliseconds at_most) {
  return UnloadThread::OfProcess().WaitFor(at_most);
}

}  // namespace tf_model_pool
