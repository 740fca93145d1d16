// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/runtime/load_session.h"

#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "tensorflow/cc/saved_model/constants.h"
#include "tensorflow/cc/saved_model/reader.h"
#include "tensorflow/core/common_runtime/device_mgr.h"
#include "tensorflow/core/common_runtime/session_factory.h"
#include "tensorflow/core/framework/device.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/path.h"
#include "tensorflow/core/platform/tstring.h"
#include "tf_allocator/pool/model_identity.h"
#include "tf_allocator/runtime/direct_restore.h"
#include "tf_allocator/runtime/forwarding_session.h"
#include "tf_allocator/runtime/load_thread.h"
#include "tf_allocator/runtime/load_totals.h"
#include "tf_allocator/runtime/process_settings.h"
#include "tf_allocator/runtime/restore_plan.h"
#include "tf_allocator/runtime/session_model.h"
#include "tf_allocator/runtime/warm_up_session.h"

namespace tensorflow {
namespace {

// RunOptions.inter_op_thread_pool: run in the calling thread.
constexpr int kCallingThread = -1;

// Stands in front of a session for as long as RestoreSession works on it.
class LoadSession : public ForwardingSession {
 public:
  // `graph` is the session's, or empty where the caller no longer has it.
  LoadSession(Session* session, const GraphDef& graph, bool direct)
      : ForwardingSession(session), graph_(graph), direct_(direct) {}

  absl::Status MakeCallable(const CallableOptions& options,
                            CallableHandle* handle) override {
    CallableOptions changed = options;
    if (changed.run_options().inter_op_thread_pool() == 0) {
      changed.mutable_run_options()->set_inter_op_thread_pool(kCallingThread);
    }
    Pending pending;
    if (Plan(options, &pending.plan)) {
      pending.options = std::move(changed);
      *handle = --last_handle_;
      pending_.emplace(*handle, std::move(pending));
      return absl::OkStatus();
    }
    return session()->MakeCallable(changed, handle);
  }

  absl::Status RunCallable(CallableHandle handle,
                           const std::vector<Tensor>& feeds,
                           std::vector<Tensor>* fetches,
                           RunMetadata* metadata) override {
    const auto it = pending_.find(handle);
    if (it == pending_.end()) {
      return session()->RunCallable(handle, feeds, fetches, metadata);
    }
    const std::string why = Restore(it->second.plan, feeds);
    if (why.empty()) return absl::OkStatus();
    tf_model_pool::CountGraphRestore(why);
    // TensorFlow's own, and its own words for what is wrong.
    CallableHandle real;
    absl::Status status = session()->MakeCallable(it->second.options, &real);
    if (!status.ok()) return status;
    status = session()->RunCallable(real, feeds, fetches, metadata);
    session()->ReleaseCallable(real).IgnoreError();
    return status;
  }

  absl::Status RunCallable(CallableHandle handle,
                           const std::vector<Tensor>& feeds,
                           std::vector<Tensor>* fetches, RunMetadata* metadata,
                           const thread::ThreadPoolOptions& pools) override {
    if (pending_.count(handle) > 0) {
      return RunCallable(handle, feeds, fetches, metadata);
    }
    return session()->RunCallable(handle, feeds, fetches, metadata, pools);
  }

  absl::Status ReleaseCallable(CallableHandle handle) override {
    if (pending_.erase(handle) > 0) return absl::OkStatus();
    return session()->ReleaseCallable(handle);
  }

 private:
  struct Pending {
    CallableOptions options;
    RestorePlan plan;
  };

  bool Plan(const CallableOptions& options, RestorePlan* plan) {
    if (!direct_) return false;
    std::string why;
    if (graph_.node_size() == 0) {
      why = "the graph is no longer there";
    } else {
      why = RestorePlan::Make(graph_, options, plan);
    }
    if (!why.empty()) tf_model_pool::CountGraphRestore(why);
    return why.empty();
  }

  // Returns "" or why not.
  std::string Restore(const RestorePlan& plan,
                      const std::vector<Tensor>& feeds) {
    if (plan.variables.empty()) return "";
    const size_t feed = static_cast<size_t>(plan.prefix_feed);
    if (feed >= feeds.size() || feeds[feed].dtype() != DT_STRING ||
        feeds[feed].NumElements() != 1) {
      return "the checkpoint's prefix is not a string";
    }
    const DeviceMgr* manager = nullptr;
    const absl::Status status = session()->LocalDeviceManager(&manager);
    if (!status.ok()) return status.ToString();
    const std::vector<Device*> devices = manager->ListDevices();
    if (devices.size() != 1 || devices[0]->device_type() != DEVICE_CPU) {
      return "there is another device than one CPU";
    }
    const std::string why =
        DirectRestore(plan, feeds[feed].flat<tstring>()(0), devices[0],
                      devices[0]->resource_manager());
    if (why.empty()) tf_model_pool::CountDirectRestore();
    return why;
  }

  const GraphDef& graph_;
  const bool direct_;
  // TensorFlow's handles are not negative.
  CallableHandle last_handle_ = 0;
  std::map<CallableHandle, Pending> pending_;
};

// For a SavedModelBundleLite, whose graph has gone into the session.
bool ReadAgain(const MetaGraphDef& meta_graph, const std::string& export_dir,
               MetaGraphDef* read) {
  const auto& tags = meta_graph.meta_info_def().tags();
  return ReadMetaGraphDefFromSavedModel(export_dir, {tags.begin(), tags.end()},
                                        read)
      .ok();
}

thread_local bool in_restore_session = false;

// Begins SessionOptions.target of sessions that LoadForPools makes; the rest is
// the target that its caller wants.
constexpr char kOnWaitingThread[] = "tf_model_pool://on_waiting_thread/";

class OnWaitingThread : public SessionFactory {
 public:
  bool AcceptsOptions(const SessionOptions& options) override {
    return absl::StartsWith(options.target, kOnWaitingThread);
  }
  absl::Status NewSession(const SessionOptions& options,
                          Session** session) override {
    SessionOptions plain = options;
    plain.target.erase(0, std::strlen(kOnWaitingThread));
    absl::Status status;
    tf_model_pool::RunOnWaitingThread([&] {
      status = tensorflow::NewSession(plain, session);
      if (!status.ok()) return;
      *session = SessionForPools(std::unique_ptr<Session>(*session)).release();
    });
    return status;
  }
};

// Others, of a remote master, do not take thread pools for a run.
bool IsLocal(Session* session) {
  const DeviceMgr* devices = nullptr;
  return session != nullptr && session->LocalDeviceManager(&devices).ok();
}

// The name of the pool that the version's variables are in.
std::string NameOf(const std::string& export_dir) {
  return tf_model_pool::IdentityFromCheckpointPrefix(
             io::JoinPath(export_dir, kSavedModelVariablesDirectory,
                          kSavedModelVariablesFilename))
      .Name();
}

}  // namespace

bool InRestoreSessionForPools() { return in_restore_session; }

absl::Status RestoreSessionForPools(
    const RestoreSessionFunction& restore_session,
    const RunOptions& run_options, const MetaGraphDef& meta_graph,
    const std::string& export_dir, std::unique_ptr<Session>* session) {
  const tf_model_pool::Settings& settings = tf_model_pool::ProcessSettings();
  const auto itself = [&](std::unique_ptr<Session>* front) {
    const bool before = std::exchange(in_restore_session, true);
    const absl::Status status =
        restore_session(run_options, meta_graph, export_dir, front);
    in_restore_session = before;
    return status;
  };
  if (!settings.enabled || session == nullptr || !IsLocal(session->get())) {
    return itself(session);
  }
  SetSessionModel(session->get(), meta_graph, export_dir);
  Session* const behind = BehindWarmUp(session->get());
  absl::Status status;
  tf_model_pool::RunAtLoadPriority([&] {
    MetaGraphDef read_again;
    const GraphDef* graph = &meta_graph.graph_def();
    if (graph->node_size() == 0 && settings.direct_restore &&
        ReadAgain(meta_graph, export_dir, &read_again)) {
      graph = &read_again.graph_def();
    }
    std::unique_ptr<Session> front =
        std::make_unique<LoadSession>(behind, *graph, settings.direct_restore);
    status = itself(&front);
  });
  if (!status.ok()) return status;
  // Not that of a SavedModelBundleLite in a released binary: its caller,
  // compiled with the original in view, which leaves the pointer alone, does
  // not read it again.
  if (behind == session->get() && meta_graph.graph_def().node_size() > 0) {
    *session = NewWarmUpSession(std::move(*session));
  }
  NameWarmUp(session->get(), NameOf(export_dir));
  return status;
}

std::unique_ptr<Session> SessionForPools(std::unique_ptr<Session> session) {
  if (!tf_model_pool::ProcessSettings().enabled || !IsLocal(session.get())) {
    return session;
  }
  return NewWarmUpSession(std::move(session));
}

absl::Status LoadForPools(
    const SessionOptions& options,
    const std::function<absl::Status(const SessionOptions&)>& load) {
  const bool inside_another =
      absl::StartsWith(options.target, kOnWaitingThread);
  if (!tf_model_pool::ProcessSettings().enabled || inside_another) {
    return load(options);
  }
  static const bool registered = [] {
    SessionFactory::Register("TF_MODEL_POOL_LOAD", new OnWaitingThread);
    return true;
  }();
  (void)registered;
  SessionOptions changed = options;
  changed.target = kOnWaitingThread + options.target;
  absl::Status status;
  tf_model_pool::RunAtLoadPriority([&] { status = load(changed); });
  return status;
}

}  // namespace tensorflow
