// SPDX-License-Identifier: Apache-2.0
//
// TensorFlow's functions that load SavedModels, wrapped. Used on top of
// released binaries; a source build calls load_session.h in those functions.

#include "tf_allocator/binary/load_hook.h"

#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tf_allocator/load/load_session.h"

namespace tensorflow {

// Not in TensorFlow's headers.
absl::Status LoadSavedModelInternal(const SessionOptions& session_options,
                                    const RunOptions& run_options,
                                    const std::string& export_dir,
                                    const std::unordered_set<std::string>& tags,
                                    SavedModelBundle* const bundle);
absl::Status LoadSavedModelInternal(const SessionOptions& session_options,
                                    const RunOptions& run_options,
                                    const std::string& export_dir,
                                    const std::unordered_set<std::string>& tags,
                                    SavedModelBundleLite* const bundle);

namespace {

using Restore = decltype(&RestoreSession);

const WrappedFunction& WrappedRestoreSession() {
  static const WrappedFunction function = {
      "RestoreSession", kFrameworkLibrary,
      reinterpret_cast<const void*>(&RestoreSession),
      TF_MODEL_POOL_RESTORE_SESSION_OFFSET, TF_MODEL_POOL_RESTORE_SESSION_CODE};
  return function;
}

// Calls the original of a function that loads, in LoadForPools.
template <typename Load, typename... Arguments>
absl::Status LoadWithOriginal(const Original<Load>& original,
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
  static const Original<Restore>* original =
      new Original<Restore>(WrappedRestoreSession());
  if (original->function == nullptr) {
    return absl::InternalError(original->error);
  }
  return RestoreSessionForPools(original->function, run_options, meta_graph,
                                export_dir, session);
}

#ifdef TF_MODEL_POOL_LOAD_BUNDLE_CODE
namespace {
using LoadBundle = absl::Status (*)(const SessionOptions&, const RunOptions&,
                                    const std::string&,
                                    const std::unordered_set<std::string>&,
                                    SavedModelBundle*);

const WrappedFunction& WrappedLoadBundle() {
  static const WrappedFunction function = {
      "LoadSavedModelInternal", kFrameworkLibrary,
      reinterpret_cast<const void*>(
          static_cast<LoadBundle>(&LoadSavedModelInternal)),
      TF_MODEL_POOL_LOAD_BUNDLE_OFFSET, TF_MODEL_POOL_LOAD_BUNDLE_CODE};
  return function;
}
}  // namespace

absl::Status LoadSavedModelInternal(const SessionOptions& session_options,
                                    const RunOptions& run_options,
                                    const std::string& export_dir,
                                    const std::unordered_set<std::string>& tags,
                                    SavedModelBundle* const bundle) {
  static const auto* original = new Original<LoadBundle>(WrappedLoadBundle());
  return LoadWithOriginal(*original, session_options, run_options, export_dir,
                          tags, bundle);
}
#endif

#ifdef TF_MODEL_POOL_LOAD_LITE_CODE
namespace {
using LoadLite = absl::Status (*)(const SessionOptions&, const RunOptions&,
                                  const std::string&,
                                  const std::unordered_set<std::string>&,
                                  SavedModelBundleLite*);

const WrappedFunction& WrappedLoadLite() {
  static const WrappedFunction function = {
      "LoadSavedModelInternal (SavedModelBundleLite)", kFrameworkLibrary,
      reinterpret_cast<const void*>(
          static_cast<LoadLite>(&LoadSavedModelInternal)),
      TF_MODEL_POOL_LOAD_LITE_OFFSET, TF_MODEL_POOL_LOAD_LITE_CODE};
  return function;
}
}  // namespace

absl::Status LoadSavedModelInternal(const SessionOptions& session_options,
                                    const RunOptions& run_options,
                                    const std::string& export_dir,
                                    const std::unordered_set<std::string>& tags,
                                    SavedModelBundleLite* const bundle) {
  static const auto* original = new Original<LoadLite>(WrappedLoadLite());
  return LoadWithOriginal(*original, session_options, run_options, export_dir,
                          tags, bundle);
}
#endif

#ifdef TF_MODEL_POOL_LOAD_META_GRAPH_CODE
namespace {
using LoadMetaGraph = decltype(&LoadMetagraphIntoSession);

const WrappedFunction& WrappedLoadMetaGraph() {
  static const WrappedFunction function = {
      "LoadMetagraphIntoSession", kFrameworkLibrary,
      reinterpret_cast<const void*>(&LoadMetagraphIntoSession),
      TF_MODEL_POOL_LOAD_META_GRAPH_OFFSET, TF_MODEL_POOL_LOAD_META_GRAPH_CODE};
  return function;
}
}  // namespace

absl::Status LoadMetagraphIntoSession(const SessionOptions& session_options,
                                      const MetaGraphDef& meta_graph,
                                      std::unique_ptr<Session>* session) {
  static const auto* original =
      new Original<LoadMetaGraph>(WrappedLoadMetaGraph());
  return LoadWithOriginal(*original, session_options, meta_graph, session);
}
#endif

std::vector<const WrappedFunction*> WrappedLoadFunctions() {
  return {
      &WrappedRestoreSession(),
#ifdef TF_MODEL_POOL_LOAD_BUNDLE_CODE
      &WrappedLoadBundle(),
#endif
#ifdef TF_MODEL_POOL_LOAD_LITE_CODE
      &WrappedLoadLite(),
#endif
#ifdef TF_MODEL_POOL_LOAD_META_GRAPH_CODE
      &WrappedLoadMetaGraph(),
#endif
  };
}

}  // namespace tensorflow
