// SPDX-License-Identifier: Apache-2.0
//
// Threads that load a model give way to requests: they pause.
//
// High-level model
// - A thread that loads keeps its scheduling class and its nice value. Threads
//   inherit both, and an unprivileged process cannot raise either again, so
//   nothing that serves later is ever born, or left, at a lowered priority, and
//   a load always has its share of a busy machine.
// - While models of this process serve, a pacer looks at such threads every
//   250 us of its work. One that has used its share of CPU time gets a signal
//   whose handler sleeps. So what TensorFlow does in one piece pauses too, and
//   whoever waits for a lock of that thread waits for one pause at most.
// - The share is a part of what requests leave of the CPUs or of the control
//   group's quota (cpu_share.h).
// - While nothing serves, a load is as fast as ever.

#ifndef TF_ALLOCATOR_SCHED_LOAD_THREAD_H_
#define TF_ALLOCATOR_SCHED_LOAD_THREAD_H_

#include <functional>

namespace tf_model_pool {

// Makes the calling thread give way while the object lives. May be nested. Does
// nothing with TF_MODEL_POOL=off or TF_MODEL_POOL_LOAD_PRIORITY=normal, and if
// the thread cannot be paced: a load does not fail for that. Must be destroyed
// on the thread that made it.
class GiveWay {
 public:
  GiveWay();
  ~GiveWay();
  GiveWay(const GiveWay&) = delete;
  GiveWay& operator=(const GiveWay&) = delete;
};

// Calls `work` on the calling thread, which gives way meanwhile. Exceptions
// reach the caller.
void RunAtLoadPriority(const std::function<void()>& work);

// Called between two pieces of work by a thread that holds nothing for which
// others wait: if it gives way, it sleeps off all that it has used too much.
// The pacer's pauses are short, for they come anywhere, and too short after
// what the kernel does in one piece: finding a huge page can take 7 ms.
void PauseHere();

// The number of threads that the load of the calling thread may use at once
// now, itself included: at least one. As many as there are CPUs while nothing
// serves.
int AllowedThreads();

// A request is served. Cheap: one coarse clock. Ignored on a thread that gives
// way, or did in the last ten seconds: what a load runs, and the warm-up that
// follows it on the same thread, is no request.
void NoteServing();

// True if a request was served in the last ten seconds.
bool Serving();

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_SCHED_LOAD_THREAD_H_
