// SPDX-License-Identifier: Apache-2.0
//
// Work that the calling thread shares with threads of its own.

#ifndef TF_ALLOCATOR_RESTORE_READER_THREADS_H_
#define TF_ALLOCATOR_RESTORE_READER_THREADS_H_

#include <cstddef>
#include <functional>
#include <thread>
#include <utility>

namespace tf_model_pool {

using StartThread = std::function<std::thread(std::function<void()>)>;

// Calls `here` on the calling thread and, at the same time, `beside` on as many
// as `others` threads; on fewer if no more can be started. Returns when all
// have ended, and throws then what the first of them has thrown.
void ReadTogether(
    size_t others, const std::function<void()>& here,
    const std::function<void()>& beside,
    const StartThread& start = [](std::function<void()> work) {
      return std::thread(std::move(work));
    });

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_RESTORE_READER_THREADS_H_
