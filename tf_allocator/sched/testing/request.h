// SPDX-License-Identifier: Apache-2.0

#ifndef TF_ALLOCATOR_SCHED_TESTING_REQUEST_H_
#define TF_ALLOCATOR_SCHED_TESTING_REQUEST_H_

#include <thread>

#include "tf_allocator/sched/load_thread.h"

namespace tf_model_pool {

// On a thread that has loaded nothing: the caller may have.
inline void ServeRequest() { std::thread(NoteServing).join(); }

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_SCHED_TESTING_REQUEST_H_
