// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/at_fork.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>

#include "tf_allocator/pool/testing/child.h"

namespace tf_model_pool {
namespace {

TEST(AtForkTest, WhatIsWaitedForComesBeforeAnyLock) {
  static std::string* const order = [] {
    static auto* const made = new std::string;
    AtFork([] { *made += "lock "; }, [] { *made += "parent "; },
           [] { *made += "child "; });
    WaitBeforeFork([] { *made += "wait "; });
    AtFork({}, {}, {});
    return made;
  }();
  order->clear();
  EXPECT_EQ(StatusOfChild([] { return *order == "wait lock child "; }), 0);
  EXPECT_EQ(*order, "wait lock parent ");
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
    if (StatusOfChild([] { return mutex->try_lock(); }) != 0) ++taken;
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
