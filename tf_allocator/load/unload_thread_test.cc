// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/load/unload_thread.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "tf_allocator/pool/at_fork.h"
#include "tf_allocator/pool/testing/child.h"
#include "tf_allocator/sched/load_thread.h"
#include "tf_allocator/sched/testing/request.h"

namespace tf_model_pool {
namespace {

// Called before what the unload thread waits for, which is registered later.
std::function<void()> when_a_fork_begins;
const bool registered = [] {
  WaitBeforeFork([] {
    if (when_a_fork_begins) when_a_fork_begins();
  });
  return true;
}();

// Work that is at its start until `go`.
std::function<void()> WaitingFor(std::promise<void>* go) {
  return [wait = go->get_future().share()] { wait.wait(); };
}

TEST(UnloadThreadTest, WorkIsDoneInTurnOnAnotherThread) {
  ServeRequest();
  std::vector<int> done;
  std::promise<void> go;
  RunOnUnloadThread(WaitingFor(&go));
  const std::thread::id caller = std::this_thread::get_id();
  for (int i = 0; i < 3; ++i) {
    RunOnUnloadThread([&done, caller, i] {
      EXPECT_NE(std::this_thread::get_id(), caller);
      done.push_back(i);
    });
  }
  EXPECT_TRUE(done.empty());
  go.set_value();
  WaitForUnloads();
  EXPECT_EQ(done, (std::vector<int>{0, 1, 2}));
}

TEST(UnloadThreadTest, WorkMayWaitForUnloads) {
  ServeRequest();
  bool done = false;
  RunOnUnloadThread([&done] {
    WaitForUnloads();
    done = true;
  });
  WaitForUnloads();
  EXPECT_TRUE(done);
}

// It is another model's: one that never ends must not stop all loads.
TEST(UnloadThreadTest, ALoadWaitsForAWhile) {
  ServeRequest();
  std::promise<void> go;
  RunOnUnloadThread(WaitingFor(&go));
  EXPECT_FALSE(WaitForUnloads(std::chrono::milliseconds(1)));
  go.set_value();
  EXPECT_TRUE(WaitForUnloads(std::chrono::minutes(1)));
}

TEST(UnloadThreadTest, TheProcessEndsThoughASessionDoesNot) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(
      {
        NoteServing();
        RunOnUnloadThread([] { pause(); });
        exit(7);
      },
      testing::ExitedWithCode(7), "");
}

// The child would find taken what the thread has locked in TensorFlow.
TEST(UnloadThreadTest, AForkWaitsForWork) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer forbids threads in a forked child";
#endif
  ServeRequest();
  std::promise<void> go;
  bool done = false;
  RunOnUnloadThread([wait = WaitingFor(&go), &done] {
    wait();
    done = true;
  });
  when_a_fork_begins = [&go] { go.set_value(); };
  EXPECT_EQ(StatusOfChild([&done] { return done; }), 0);
  when_a_fork_begins = nullptr;
}

// A session joins its threads when it ends, and the child does not have them.
TEST(UnloadThreadTest, AForkedChildEndsNothingOfItsParent) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer forbids threads in a forked child";
#endif
  ServeRequest();
  std::promise<void> go;
  RunOnUnloadThread(WaitingFor(&go));
  const pid_t parent = getpid();
  auto session = std::shared_ptr<void>(nullptr, [parent](void*) {
    if (getpid() != parent) _exit(2);
  });
  RunOnUnloadThread([last = std::move(session)]() mutable { last.reset(); });
  const int status = StatusOfChild([] {
    bool done = false;
    RunOnUnloadThread([&done] { done = true; });
    WaitForUnloads();
    return done;
  });
  EXPECT_EQ(status, 0);
  go.set_value();
  WaitForUnloads();
}

}  // namespace
}  // namespace tf_model_pool
