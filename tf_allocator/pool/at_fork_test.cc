// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/at_fork.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

namespace tf_model_pool {
namespace {

TEST(AtForkTest, WhatIsWaitedForComesBeforeAnyLock) {
  static auto* const order = new std::string;
  AtFork([] { *order += "lock "; }, [] { *order += "parent "; },
         [] { *order += "child "; });
  WaitBeforeFork([] { *order += "wait "; });
  AtFork({}, {}, {});
  order->clear();
  const pid_t child = fork();
  if (child == 0) _exit(*order == "wait lock child " ? 0 : 1);
  EXPECT_EQ(*order, "wait lock parent ");
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

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
