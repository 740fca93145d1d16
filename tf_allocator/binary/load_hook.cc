// SPDX-License-Identifier: Apache-2.0
//
// TensorFlow's functions that load SavedModels, wrapped. Used on top of
// released binaries; a source build calls load_session.h in those functions.
//
// No release calls all of them by name. Ours is seen from outside only if the
// release does: exports.lds.in lists the symbols that the builder found.

#include <memory>
#include <string>
#include <unordered_set>

#include "absl/status/status.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tf_allocator/binary/hook_status.h"
#include "tf_allocator/load/load_session.h"

namespace tensorflow {
namespace {

using Tags = std::unordered_set<std::string>;

using Restore = decltype(&RestoreSession);
using LoadMetaGraph = decltype(&LoadMetagraphIntoSession);
template <typename Bundle>
using Load = absl::Status (*)(const SessionOptions&, const RunOptions&,
                              const std::string&, const Tags&, Bundle*);

// Calls the original of a function that loads, in LoadForPools.
template <typename Function, typename... Arguments>
absl::Status LoadWithOriginal(const Original<Function>& original,
                              const SessionOptions& options,
                              Arguments&&... arguments) {
  if (original.function == nullptr) return absl::InternalError(original.error);
  return LoadForPools(options, [&](const SessionOptions& changed) {
    return original.function(changed, arguments...);
  });
}

}  // namespace

absl::Status RestoreSession(const RunOptions& run_options,
                            const MetaGraphDef& meta_graph,
                            const std::string& export_dir,
                            std::unique_ptr<Session>* session) {
  static const auto* original =
      new Original<Restore>(WrappedFunction::RESTORE_SESSION);
  if (original->function == nullptr) {
    return absl::InternalError(original->error);
  }
  return RestoreSessionForPools(original->function, run_options, meta_graph,
                                export_dir, session);
}

// The next two are not in TensorFlow's headers.
absl::Status LoadSavedModelInternal(const SessionOptions& session_options,
                                    const RunOptions& run_options,
                                    const std::string& export_dir,
                                    const Tags& tags,
                                    SavedModelBundle* const bundle) {
  static const auto* original =
      new Original<Load<SavedModelBundle>>(WrappedFunction::LOAD_BUNDLE);
  return LoadWithOriginal(*original, session_options, run_options, export_dir,
                          tags, bundle);
}

absl::Status LoadSavedModelInternal(const SessionOptions& session_options,
                                    const RunOptions& run_options,
                                    const std::string& export_dir,
                                    const Tags& tags,
                                    SavedModelBundleLite* const bundle) {
  static const auto* original =
      new Original<Load<SavedModelBundleLite>>(WrappedFunction::LOAD_LITE);
  return LoadWithOriginal(*original, session_options, run_options, export_dir,
                          tags, bundle);
}

absl::Status LoadMetagraphIntoSession(const SessionOptions& session_options,
                                      const MetaGraphDef& meta_graph,
                                      std::unique_ptr<Session>* session) {
  static const auto* original =
      new Original<LoadMetaGraph>(WrappedFunction::LOAD_META_GRAPH);
  return LoadWithOriginal(*original, session_options, meta_graph, session);
}

}  // namespace tensorflow
