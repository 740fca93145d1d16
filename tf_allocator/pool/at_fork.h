// SPDX-License-Identifier: Apache-2.0
//
// What has to be in order when the process forks: the child has the thread
// that forked alone, and memory as the others left it.

#ifndef TF_ALLOCATOR_POOL_AT_FORK_H_
#define TF_ALLOCATOR_POOL_AT_FORK_H_

#include <functional>
#include <mutex>

namespace tf_model_pool {

// Calls the functions, each of which may be empty, around every fork(2) from
// now on, on the thread that forks. `before` takes locks that are held for
// moments, while no other lock is taken; the others give them back.
void AtFork(std::function<void()> before, std::function<void()> in_parent,
            std::function<void()> in_child);

// Calls `wait` before a fork, with no lock taken: threads that are at work in
// TensorFlow hold locks of it, which the child would find taken for ever.
// Must return in the end, whatever it waits for.
void WaitBeforeFork(std::function<void()> wait);

// A lock that a forked child never finds taken. Must never be destroyed.
class ForkSafeMutex : public std::mutex {
 public:
  ForkSafeMutex();
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_AT_FORK_H_
