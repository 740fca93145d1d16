// SPDX-License-Identifier: Apache-2.0
//
// Sessions end on a thread kept for that: whoever drops the last reference to a
// model may be answering a request.

#ifndef TF_ALLOCATOR_LOAD_UNLOAD_THREAD_H_
#define TF_ALLOCATOR_LOAD_UNLOAD_THREAD_H_

#include <chrono>
#include <functional>

namespace tf_model_pool {

// Calls `work` on that thread, which gives way, and returns at once. On the
// calling thread while nothing serves, or if there is no thread to be had. The
// process does not end before all is done, or ten seconds later.
void RunOnUnloadThread(std::function<void()> work);

// Returns when all that RunOnUnloadThread was given before is done.
void WaitForUnloads();

// The same for a load, which takes the memory that the version before leaves,
// but must not wait for ever: a session may end when others let it. Returns
// false if `at_most` has passed.
constexpr std::chrono::seconds kLoadWaits(5);
bool WaitForUnloads(std::chrono::milliseconds at_most);

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_LOAD_UNLOAD_THREAD_H_
