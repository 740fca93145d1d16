// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/runtime/load_thread.h"

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "tf_allocator/pool/settings.h"
#include "tf_allocator/runtime/process_settings.h"

namespace tf_model_pool {
namespace {

// A tenth of the weight of a thread with nice 0 (the kernel's
// sched_prio_to_weight: 110 to 1024).
constexpr int kLowNice = 10;

thread_local bool on_load_thread = false;

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
  if (!settings.enabled || on_load_thread ||
      priority == Settings::LoadPriority::kNormal) {
    work();
    return;
  }
  std::thread thread([&] {
    on_load_thread = true;
    pthread_setname_np(pthread_self(), "tf_model_load");
    LowerPriority(priority);
    work();
  });
  thread.join();
}

}  // namespace tf_model_pool
