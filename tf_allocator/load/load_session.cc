// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/load/load_session.h"

#include <cstring>
#include <map>
#include <typeinfo>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "tensorflow/cc/saved_model/constants.h"
#include "tensorflow/cc/saved_model/reader.h"
#include "tensorflow/core/common_runtime/device_mgr.h"
#include "tensorflow/core/common_runtime/session_factory.h"
#include "tensorflow/core/framework/device.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/platform/path.h"
#include "tensorflow/core/platform/tstring.h"
#include "tensorflow/core/util/tensor_bundle/naming.h"
#include "tf_allocator/device/load_totals.h"
#include "tf_allocator/device/process_settings.h"
#include "tf_allocator/load/forwarding_session.h"
#include "tf_allocator/load/serving_session.h"
#include "tf_allocator/load/session_model.h"
#include "tf_allocator/load/unload_thread.h"
#include "tf_allocator/restore/direct_restore.h"
#include "tf_allocator/restore/restore_plan.h"
#include "tf_allocator/sched/load_thread.h"

namespace tensorflow {
namespace {

// RunOptions.inter_op_thread_pool: run in the calling thread.
constexpr int kCallingThread = -1;

// With more bytes of constants than this, weights among them, nothing is
// prepared that may never be asked for.
constexpr size_t kLargeConstants = size_t{256} << 10;

// Stands in front of a session for as long as RestoreSession works on it.
class LoadSession : public ForwardingSession {
 public:
  // `graph` is the session's, or empty if the caller no longer has it.
  LoadSession(Session* session, const GraphDef& graph,
              const std::string& restore_op, bool direct)
      : ForwardingSession(session),
        graph_(graph),
        restore_op_(restore_op),
        direct_(direct) {}

  absl::Status MakeCallable(const CallableOptions& options,
                            CallableHandle* handle) override {
    CallableOptions changed = options;
    // A restore op ends in as many assignments as there are variables, all
    // ready at once, on threads that requests share.
    if (changed.run_options().inter_op_thread_pool() == 0 &&
        options.target_size() == 1 && options.target(0) == restore_op_) {
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
  const std::string restore_op_;
  const bool direct_;
  // TensorFlow's handles are not negative.
  CallableHandle last_handle_ = 0;
  std::map<CallableHandle, Pending> pending_;
};

// For a SavedModelBundleLite, whose graph has gone into the session: reads the
// graph again, if a restore op needs it.
GraphDef ReadAgain(const MetaGraphDef& meta_graph,
                   const std::string& export_dir) {
  const std::string index =
      io::JoinPath(export_dir, kSavedModelVariablesDirectory,
                   MetaFilename(kSavedModelVariablesFilename));
  if (meta_graph.saver_def().restore_op_name().empty() ||
      !Env::Default()->FileExists(index).ok()) {
    return {};
  }
  const auto& tags = meta_graph.meta_info_def().tags();
  MetaGraphDef read;
  ReadMetaGraphDefFromSavedModel(export_dir, {tags.begin(), tags.end()}, &read)
      .IgnoreError();
  return std::move(*read.mutable_graph_def());
}

thread_local bool in_restore_session = false;
thread_local bool in_load = false;

// Begins SessionOptions.target of sessions that LoadForPools makes; the rest is
// the target that its caller wants.
constexpr char kServing[] = "tf_model_pool://serving/";

// Makes sessions that are from SessionForPools. A factory, because a released
// binary's caller of RestoreSession for a SavedModelBundleLite does not read
// the session's pointer again.
class ServingSessionFactory : public SessionFactory {
 public:
  bool AcceptsOptions(const SessionOptions& options) override {
    return absl::StartsWith(options.target, kServing);
  }
  absl::Status NewSession(const SessionOptions& options,
                          Session** session) override {
    SessionOptions plain = options;
    plain.target.erase(0, std::strlen(kServing));
    const absl::Status status = tensorflow::NewSession(plain, session);
    if (!status.ok()) return status;
    *session = SessionForPools(std::unique_ptr<Session>(*session)).release();
    return status;
  }
};

// Others have devices in another process, or look at what is fed in another
// order than PrepareRun needs.
bool IsDirect(const Session* session) {
  return session != nullptr &&
         std::strcmp(typeid(*session).name(),
                     "N10tensorflow13DirectSessionE") == 0;
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
    const absl::Cleanup after = [before] { in_restore_session = before; };
    return restore_session(run_options, meta_graph, export_dir, front);
  };
  Session* const behind =
      session == nullptr ? nullptr : BehindServing(session->get());
  if (!settings.enabled || !IsDirect(behind)) return itself(session);
  // LoadForPools has waited.
  if (!in_load) tf_model_pool::WaitForUnloads(tf_model_pool::kLoadWaits);
  const tf_model_pool::GiveWay give_way;
  const size_t constants =
      SetSessionModel(session->get(), meta_graph, export_dir);
  {
    GraphDef read_again;
    const GraphDef* graph = &meta_graph.graph_def();
    if (graph->node_size() == 0 && settings.direct_restore) {
      read_again = ReadAgain(meta_graph, export_dir);
      graph = &read_again;
    }
    std::unique_ptr<Session> front = std::make_unique<LoadSession>(
        behind, *graph, meta_graph.saver_def().restore_op_name(),
        settings.direct_restore);
    const absl::Status status = itself(&front);
    if (!status.ok()) return status;
  }
  // See ServingSessionFactory for the one that is left as it is.
  if (behind == session->get() && meta_graph.graph_def().node_size() > 0) {
    *session = NewServingSession(std::move(*session));
  }
  PrepareToServe(session->get(), meta_graph, export_dir,
                 constants > kLargeConstants);
  return absl::OkStatus();
}

std::unique_ptr<Session> SessionForPools(std::unique_ptr<Session> session) {
  if (!tf_model_pool::ProcessSettings().enabled || !IsDirect(session.get())) {
    return session;
  }
  return NewServingSession(std::move(session));
}

absl::Status LoadForPools(
    const SessionOptions& options,
    const std::function<absl::Status(const SessionOptions&)>& load) {
  const bool inside_another = absl::StartsWith(options.target, kServing);
  if (!tf_model_pool::ProcessSettings().enabled || inside_another) {
    return load(options);
  }
  static const bool registered = [] {
    SessionFactory::Register("TF_MODEL_POOL_LOAD", new ServingSessionFactory);
    return true;
  }();
  (void)registered;
  SessionOptions changed = options;
  changed.target = kServing + options.target;
  // Before it gives way: one that waits would take a part of the share.
  tf_model_pool::WaitForUnloads(tf_model_pool::kLoadWaits);
  const tf_model_pool::GiveWay give_way;
  const bool before = std::exchange(in_load, true);
  const absl::Cleanup after = [before] { in_load = before; };
  return load(changed);
}

}  // namespace tensorflow
