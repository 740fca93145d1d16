// SPDX-License-Identifier: Apache-2.0

#ifndef TF_ALLOCATOR_POOL_TESTING_CHILD_H_
#define TF_ALLOCATOR_POOL_TESTING_CHILD_H_

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace tf_model_pool {

// Runs `child` in a forked process, which ends after a minute if it hangs.
// Returns how it ended, as waitpid(2) says: 0 if `child` returned true.
inline int StatusOfChild(const std::function<bool()>& child) {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(60);
    _exit(child() ? 0 : 1);
  }
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_TESTING_CHILD_H_
