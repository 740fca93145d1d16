// SPDX-License-Identifier: Apache-2.0
//
// LoadSavedModel, and RestoreSession, the part of it that restores variables
// and runs init ops, done in a way that requests do not notice.

#ifndef TF_ALLOCATOR_LOAD_LOAD_SESSION_H_
#define TF_ALLOCATOR_LOAD_LOAD_SESSION_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "tensorflow/core/protobuf/config.pb.h"
#include "tensorflow/core/protobuf/meta_graph.pb.h"
#include "tensorflow/core/public/session.h"
#include "tensorflow/core/public/session_options.h"

namespace tensorflow {

// TensorFlow's own.
using RestoreSessionFunction =
    std::function<absl::Status(const RunOptions&, const MetaGraphDef&,
                               const std::string&, std::unique_ptr<Session>*)>;

// Calls `restore_session` with the other arguments, with these differences:
// - The calling thread gives way to requests (load_thread.h).
// - A restore op that only assigns the checkpoint's tensors to variables is not
//   run: the variables are set (direct_restore.h). An init op that does nothing
//   is not run either. TF_MODEL_POOL_DIRECT_RESTORE=off runs both.
// - A restore op that is run runs on the calling thread, not on the inter-op
//   threads that requests share, unless `run_options` names a pool other than
//   the first.
// - The executors of what the model serves are made (serving_session.h).
// - `*session` is one from SessionForPools, unless it is that already, or
//   `meta_graph` has no graph (a SavedModelBundleLite of a released binary).
// The result, logs and metrics are those of `restore_session`.
absl::Status RestoreSessionForPools(
    const RestoreSessionFunction& restore_session,
    const RunOptions& run_options, const MetaGraphDef& meta_graph,
    const std::string& export_dir, std::unique_ptr<Session>* session);

// True while this thread is in `restore_session`: in a build from source a
// function calls RestoreSessionForPools with itself.
bool InRestoreSessionForPools();

// Returns `session`, made to serve (serving_session.h); a session whose devices
// are in another process as it is.
std::unique_ptr<Session> SessionForPools(std::unique_ptr<Session> session);

// Calls `load`, which loads a model with the session options that it is given.
// The calling thread gives way meanwhile, and the session is one from
// SessionForPools.
absl::Status LoadForPools(
    const SessionOptions& options,
    const std::function<absl::Status(const SessionOptions&)>& load);

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_LOAD_LOAD_SESSION_H_
