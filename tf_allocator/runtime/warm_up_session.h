// SPDX-License-Identifier: Apache-2.0
//
// The session of a model while it is loaded and warmed up.

#ifndef TF_ALLOCATOR_RUNTIME_WARM_UP_SESSION_H_
#define TF_ALLOCATOR_RUNTIME_WARM_UP_SESSION_H_

#include <memory>
#include <string>

#include "tensorflow/core/public/session.h"

namespace tensorflow {

// Returns a session that is `session`, made for the load that the calling
// thread does, with these differences:
// - Its graph is imported on a load thread (load_thread.h).
// - The first run of a signature that the loading thread makes (the calling
// one,
//   or the one that waits for it) is done on a load thread and on threads that
//   inherit its priority, not on those that requests share: that run optimizes
//   the graph and makes its kernels, and no request waits for it. A thread pool
//   that the run names itself, other than the session's first, is used as
//   ever. Later runs of that signature are as ever.
// - As soon as another thread runs it, it serves, and all runs are as ever. A
//   version that serves a signature that was never run before is counted
//   (load_totals.h) and named in a log line: its first request pays for what a
//   warm-up would have paid.
//   The cost of a run is then one load and one branch.
// - It is destroyed on a load thread.
std::unique_ptr<Session> NewWarmUpSession(std::unique_ptr<Session> session);

// The session that `session` stands in front of, where it is such a one, and
// else `session`.
Session* BehindWarmUp(Session* session);

// Names the model version of such a session, for people.
void NameWarmUp(Session* session, const std::string& name);

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_RUNTIME_WARM_UP_SESSION_H_
