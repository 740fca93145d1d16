// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/restore/reader_threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <stdexcept>
#include <system_error>

namespace tf_model_pool {
namespace {

// Starts so many threads; the next is refused, as the kernel does it.
StartThread AtMost(int threads) {
  return [left = threads](std::function<void()> work) mutable {
    if (left-- == 0) {
      throw std::system_error(
          std::make_error_code(std::errc::resource_unavailable_try_again));
    }
    return std::thread(std::move(work));
  };
}

TEST(ReaderThreadsTest, AllWorkAtOnce) {
  std::atomic<int> working{0};
  // Each waits for the others.
  const auto work = [&] {
    ++working;
    while (working < 4) std::this_thread::yield();
  };
  ReadTogether(3, work, work);
  EXPECT_EQ(working, 4);
}

TEST(ReaderThreadsTest, NoOthersNeedNoThread) {
  const std::thread::id caller = std::this_thread::get_id();
  std::thread::id worker;
  ReadTogether(
      0, [&] { worker = std::this_thread::get_id(); }, [] { FAIL(); },
      AtMost(0));
  EXPECT_EQ(worker, caller);
}

TEST(ReaderThreadsTest, GoesOnWithTheThreadsThatCanBeStarted) {
  for (int possible = 0; possible < 3; ++possible) {
    int here = 0;
    std::atomic<int> beside{0};
    ReadTogether(3, [&] { ++here; }, [&] { ++beside; }, AtMost(possible));
    EXPECT_EQ(here, 1);
    EXPECT_EQ(beside, possible);
  }
}

TEST(ReaderThreadsTest, WhatAThreadThrowsReachesTheCallerWhenAllHaveEnded) {
  std::atomic<int> ended{0};
  const auto fail = [&] {
    ++ended;
    throw std::bad_alloc();
  };
  EXPECT_THROW(ReadTogether(2, [&] { ++ended; }, fail), std::bad_alloc);
  EXPECT_EQ(ended, 3);
}

TEST(ReaderThreadsTest, WhatTheCallerThrowsWaitsForTheOthers) {
  std::atomic<bool> thrown{false};
  std::atomic<int> ended{0};
  const auto fail = [&] {
    thrown = true;
    throw std::runtime_error("here");
  };
  const auto beside = [&] {
    while (!thrown) std::this_thread::yield();
    ++ended;
  };
  EXPECT_THROW(ReadTogether(2, fail, beside), std::runtime_error);
  EXPECT_EQ(ended, 2);
}

}  // namespace
}  // namespace tf_model_pool
