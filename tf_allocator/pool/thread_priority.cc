// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/thread_priority.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace tf_model_pool {
void LowerThreadPriority(Settings::LoadPriority priority) {
  switch (priority) {
    case Settings::LoadPriority::kNormal:
      return;
    case Settings::LoadPriority::kAuto:
    case Settings::LoadPriority::kLow:
      setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)),
                  kLowNice);
      return;
    case Settings::LoadPriority::kIdle: {
      sched_param none{};
      sched_setscheduler(0, SCHED_IDLE, &none);
      return;
    }
  }
}

}  // namespace tf_model_pool
