// SPDX-License-Identifier: Apache-2.0
//
// TensorFlow's RestoreSession, wrapped. Used on top of released binaries; a
// source build calls RestoreSessionForPools in that function.

#include "tf_allocator/runtime/load_hook.h"

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tf_allocator/runtime/load_session.h"

namespace tensorflow {

const WrappedFunction& WrappedRestoreSession() {
  static const WrappedFunction function = {
      "RestoreSession", kFrameworkLibrary,
      reinterpret_cast<const void*>(&RestoreSession),
      TF_MODEL_POOL_RESTORE_SESSION_OFFSET, TF_MODEL_POOL_RESTORE_SESSION_CODE};
  return function;
}

absl::Status RestoreSession(const RunOptions& run_options,
                            const MetaGraphDef& meta_graph,
                            const std::string& export_dir,
                            std::unique_ptr<Session>* session) {
  static const Original<decltype(&RestoreSession)>* original =
      new Original<decltype(&RestoreSession)>(WrappedRestoreSession());
  if (original->function == nullptr) {
    return absl::InternalError(original->error);
  }
  return RestoreSessionForPools(original->function, run_options, meta_graph,
                                export_dir, session);
}

}  // namespace tensorflow
