// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/runtime/load_session.h"

#include <map>
#include <utility>
#include <vector>

#include "tensorflow/core/common_runtime/device_mgr.h"
#include "tensorflow/core/framework/device.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/logging.h"
#include "tensorflow/core/platform/tstring.h"
#include "tf_allocator/runtime/direct_restore.h"
#include "tf_allocator/runtime/load_thread.h"
#include "tf_allocator/runtime/load_totals.h"
#include "tf_allocator/runtime/process_settings.h"
#include "tf_allocator/runtime/restore_plan.h"
#include "tf_allocator/runtime/session_model.h"

namespace tensorflow {
namespace {

// RunOptions.inter_op_thread_pool: run in the calling thread.
constexpr int kCallingThread = -1;

// Stands in front of a session for as long as RestoreSession works on it.
class LoadSession : public Session {
 public:
  // `graph` is the session's, or empty where the caller no longer has it.
  LoadSession(Session* session, const GraphDef& graph, bool direct)
      : session_(session), graph_(graph), direct_(direct) {}

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
    return session_->MakeCallable(changed, handle);
  }

  absl::Status RunCallable(CallableHandle handle,
                           const std::vector<Tensor>& feeds,
                           std::vector<Tensor>* fetches,
                           RunMetadata* metadata) override {
    const auto it = pending_.find(handle);
    if (it == pending_.end()) {
      return session_->RunCallable(handle, feeds, fetches, metadata);
    }
    const std::string why = Restore(it->second.plan, feeds);
    if (why.empty()) return absl::OkStatus();
    tf_model_pool::CountGraphRestore(why);
    // TensorFlow's own, and its own words for what is wrong.
    CallableHandle real;
    absl::Status status = session_->MakeCallable(it->second.options, &real);
    if (!status.ok()) return status;
    status = session_->RunCallable(real, feeds, fetches, metadata);
    session_->ReleaseCallable(real).IgnoreError();
    return status;
  }

  absl::Status RunCallable(CallableHandle handle,
                           const std::vector<Tensor>& feeds,
                           std::vector<Tensor>* fetches, RunMetadata* metadata,
                           const thread::ThreadPoolOptions& pools) override {
    if (pending_.count(handle) > 0) {
      return RunCallable(handle, feeds, fetches, metadata);
    }
    return session_->RunCallable(handle, feeds, fetches, metadata, pools);
  }

  absl::Status ReleaseCallable(CallableHandle handle) override {
    if (pending_.erase(handle) > 0) return absl::OkStatus();
    return session_->ReleaseCallable(handle);
  }

  absl::Status Create(const GraphDef& graph) override {
    return session_->Create(graph);
  }
  absl::Status Extend(const GraphDef& graph) override {
    return session_->Extend(graph);
  }
  absl::Status Run(const std::vector<std::pair<std::string, Tensor>>& inputs,
                   const std::vector<std::string>& outputs,
                   const std::vector<std::string>& targets,
                   std::vector<Tensor>* tensors) override {
    return session_->Run(inputs, outputs, targets, tensors);
  }
  absl::Status Run(const RunOptions& run_options,
                   const std::vector<std::pair<std::string, Tensor>>& inputs,
                   const std::vector<std::string>& outputs,
                   const std::vector<std::string>& targets,
                   std::vector<Tensor>* tensors,
                   RunMetadata* metadata) override {
    return session_->Run(run_options, inputs, outputs, targets, tensors,
                         metadata);
  }
  absl::Status ListDevices(std::vector<DeviceAttributes>* devices) override {
    return session_->ListDevices(devices);
  }
  absl::Status LocalDeviceManager(const DeviceMgr** devices) override {
    return session_->LocalDeviceManager(devices);
  }
  absl::Status Close() override { return session_->Close(); }

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
    const absl::Status status = session_->LocalDeviceManager(&manager);
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

  Session* const session_;
  const GraphDef& graph_;
  const bool direct_;
  // TensorFlow's handles are not negative.
  CallableHandle last_handle_ = 0;
  std::map<CallableHandle, Pending> pending_;
};

}  // namespace

absl::Status RestoreSessionForPools(
    const RestoreSessionFunction& restore_session,
    const RunOptions& run_options, const MetaGraphDef& meta_graph,
    const std::string& export_dir, std::unique_ptr<Session>* session) {
  const tf_model_pool::Settings& settings = tf_model_pool::ProcessSettings();
  if (!settings.enabled || session == nullptr || *session == nullptr) {
    return restore_session(run_options, meta_graph, export_dir, session);
  }
  SetSessionModel(session->get(), meta_graph, export_dir);
  absl::Status status;
  tf_model_pool::RunAtLoadPriority([&] {
    std::unique_ptr<Session> front = std::make_unique<LoadSession>(
        session->get(), meta_graph.graph_def(), settings.direct_restore);
    status = restore_session(run_options, meta_graph, export_dir, &front);
  });
  return status;
}

}  // namespace tensorflow
