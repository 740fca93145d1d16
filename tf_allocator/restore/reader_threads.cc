// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/restore/reader_threads.h"

#include <exception>
#include <mutex>
#include <utility>
#include <vector>

namespace tf_model_pool {

void ReadTogether(size_t others, const std::function<void()>& here,
                  const std::function<void()>& beside,
                  const StartThread& start) {
  std::mutex mu;
  std::exception_ptr thrown;
  const auto run = [&](const std::function<void()>& work) {
    try {
      work();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mu);
      if (thrown == nullptr) thrown = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  try {
    threads.reserve(others);
    while (threads.size() < others) {
      threads.push_back(start([&] { run(beside); }));
    }
  } catch (const std::exception&) {
    // Out of threads or memory: those there are do it all.
  }
  run(here);
  for (std::thread& thread : threads) thread.join();
  if (thrown != nullptr) std::rethrow_exception(thrown);
}

}  // namespace tf_model_pool
