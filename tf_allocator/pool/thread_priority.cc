// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/thread_priority.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace tf_model_pool {
namespace {

// A tenth of the weight of a thread with nice 0 (the kernel's
// sched_prio_to_weight: 110 to 1024).
constexpr int kLowNice = 10;

}  // namespace

void LowerThreadPriority(Settings::LoadPriority priority) {
  if (priority == Settings::LoadPriority::kNormal) return;
  if (priority == Settings::LoadPriority::kIdle) {
    sched_param none{};
    sched_setscheduler(0, SCHED_IDLE, &none);
    return;
  }
  const auto tid = static_cast<id_t>(syscall(SYS_gettid));
  setpriority(PRIO_PROCESS, tid, kLowNice);
}

}  // namespace tf_model_pool
