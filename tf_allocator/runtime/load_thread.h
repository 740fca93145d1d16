// SPDX-License-Identifier: Apache-2.0
//
// Threads for the work of loading a model, which may wait for requests.

#ifndef TF_ALLOCATOR_RUNTIME_LOAD_THREAD_H_
#define TF_ALLOCATOR_RUNTIME_LOAD_THREAD_H_

#include <functional>
#include <thread>

#include "tf_allocator/pool/cpu_idle_share.h"

namespace tf_model_pool {

// Calls `work` on a thread kept for that, with the priority that
// TF_MODEL_POOL_LOAD_PRIORITY names, and returns when it is done. A process
// without privileges can lower a thread's priority but not raise it again,
// hence the thread. Threads that `work` starts inherit the priority: what
// starts threads that outlive it belongs into RunOnWaitingThread. With priority
// `normal`, with pools off, or on such a thread already, calls `work` on the
// calling thread. An exception ends the process.
void RunAtLoadPriority(const std::function<void()>& work);

// In `work` of RunAtLoadPriority: calls `work` on the thread that waits for it,
// at that thread's priority, and returns when it is done. Elsewhere calls it on
// the calling thread.
void RunOnWaitingThread(const std::function<void()>& work);

// The thread that loads: in `work` of RunAtLoadPriority the one that waits for
// it, elsewhere the calling one.
std::thread::id LoadingThread();

// Whether the calling thread is a load thread of the idle class.
bool OnIdleThread();

// What the work of the calling thread may use: on a load thread of the idle
// class what was idle when the load began. With no CPU time to spare, one
// thread. Elsewhere all usable CPUs.
CpuUse AllowedCpuUse();

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_RUNTIME_LOAD_THREAD_H_
