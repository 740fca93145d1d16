// SPDX-License-Identifier: Apache-2.0
//
// A lock that a forked child does not find taken by a thread that it has not.

#ifndef TF_ALLOCATOR_POOL_FORK_SAFE_MUTEX_H_
#define TF_ALLOCATOR_POOL_FORK_SAFE_MUTEX_H_

#include <mutex>

namespace tf_model_pool {

// A fork waits until nobody holds it. For what is held for moments, and while
// no other lock is taken. Must never be destroyed.
class ForkSafeMutex : public std::mutex {
 public:
  ForkSafeMutex();
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_FORK_SAFE_MUTEX_H_
