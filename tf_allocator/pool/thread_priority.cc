// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/thread_priority.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace tf_model_pool {

void SetLowNice(pid_t thread) {
  const auto id = static_cast<id_t>(thread);
  // A process that gives way itself must not be raised.
  setpriority(PRIO_PROCESS, id,
              std::max(kLowNice, getpriority(PRIO_PROCESS, id)));
}

void LowerThreadPriority(Settings::LoadPriority priority) {
  switch (priority) {
    case Settings::LoadPriority::kNormal:
      return;
    case Settings::LoadPriority::kAuto:
    case Settings::LoadPriority::kLow:
      SetLowNice(static_cast<pid_t>(syscall(SYS_gettid)));
      return;
    case Settings::LoadPriority::kIdle: {
      sched_param none{};
      sched_setscheduler(0, SCHED_IDLE, &none);
      return;
    }
  }
}

}  // namespace tf_model_pool
