// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/fork_safe_mutex.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

namespace tf_model_pool {
namespace {

TEST(ForkSafeMutexTest, AChildNeverFindsItTaken) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer does not follow a multi-threaded fork";
#endif
  static auto* const mutex = new ForkSafeMutex;
  std::atomic<bool> done{false};
  // Holds it nearly all the time.
  std::thread holder([&] {
    while (!done) const std::lock_guard<std::mutex> lock(*mutex);
  });
  int taken = 0;
  for (int i = 0; i < 200; ++i) {
    const pid_t child = fork();
    if (child == 0) _exit(mutex->try_lock() ? 0 : 1);
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    if (status != 0) ++taken;
  }
  done = true;
  holder.join();
  EXPECT_EQ(taken, 0);
  // Nor does the parent keep it.
  EXPECT_TRUE(mutex->try_lock());
  mutex->unlock();
}

}  // namespace
}  // namespace tf_model_pool
