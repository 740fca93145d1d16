// SPDX-License-Identifier: Apache-2.0
//
// The session that requests run on stands in front of TensorFlow's.

#ifndef TF_ALLOCATOR_LOAD_SERVING_SESSION_H_
#define TF_ALLOCATOR_LOAD_SERVING_SESSION_H_

#include <memory>
#include <string>

#include "tensorflow/core/protobuf/meta_graph.pb.h"
#include "tensorflow/core/public/session.h"

namespace tensorflow {

// Returns a session that is `session`, with these differences:
// - Its graph is imported on a thread that gives way (load_thread.h).
// - Its runs tell loads that somebody serves, and the kinds of them are
//   remembered for the next version of the model. A run costs a coarse clock
//   and a hash of its names more.
// - A request of a kind that was not prepared is counted (load_totals.h), and
//   the first one of a version named in a log line: it waits for what a load
//   would have made.
// - It ends on another thread while models serve (unload_thread.h).
std::unique_ptr<Session> NewServingSession(std::unique_ptr<Session> session);

// The session that `session` stands in front of if it is such a one, and else
// `session`.
Session* BehindServing(Session* session);

// Makes executors for what versions of the model in `export_dir` have been
// asked for and, without `large_constants`, for its signatures: executors have
// a copy of the graph's constants. TF_MODEL_POOL_PREPARE_RUNS at most. No
// kernel runs. Does nothing for a session that is not from NewServingSession.
// To be called once, before others use the session.
void PrepareToServe(Session* session, const MetaGraphDef& meta_graph,
                    const std::string& export_dir, bool large_constants);

}  // namespace tensorflow

namespace tf_model_pool {

// Loads of the calling thread prepare what the model serves if `on`, as they do
// at first. Returns what was set before. For a caller that makes callables of
// its own.
bool SetPreparing(bool on);

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_LOAD_SERVING_SESSION_H_
