// SPDX-License-Identifier: Apache-2.0
//
// The priority of threads whose work may wait for requests.

#ifndef TF_ALLOCATOR_POOL_THREAD_PRIORITY_H_
#define TF_ALLOCATOR_POOL_THREAD_PRIORITY_H_

#include <sys/types.h>

#include "tf_allocator/pool/settings.h"

namespace tf_model_pool {

// Of Settings::LoadPriority::kLow: a tenth of the weight of a thread with nice
// 0 (the kernel's sched_prio_to_weight: 110 to 1024).
constexpr int kLowNice = 10;

// Gives a thread of this process that nice value, where its own is lower.
void SetLowNice(pid_t thread);

// Lowers the calling thread to `priority`, kAuto being kLow, for good: a
// process without privileges cannot raise it again. Threads that it starts
// inherit it. Where the system refuses, the thread stays as it is.
void LowerThreadPriority(Settings::LoadPriority priority);

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_THREAD_PRIORITY_H_
