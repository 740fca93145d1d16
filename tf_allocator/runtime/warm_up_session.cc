// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/runtime/warm_up_session.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tensorflow/core/platform/cpu_info.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/platform/logging.h"
#include "tensorflow/core/platform/threadpool.h"
#include "tensorflow/core/platform/threadpool_interface.h"
#include "tf_allocator/runtime/forwarding_session.h"
#include "tf_allocator/runtime/load_thread.h"
#include "tf_allocator/runtime/load_totals.h"
#include "tf_allocator/runtime/process_settings.h"
#include "tf_allocator/runtime/session_model.h"

namespace tensorflow {
namespace {

// As many threads as TensorFlow's own pools would have, so that kernels which
// wait for each other find them; on large machines that is beyond need.
constexpr int kMaxThreads = 16;

class Threads : public thread::ThreadPoolInterface {
 public:
  explicit Threads(const char* name)
      : pool_(Env::Default(), name,
              std::min(kMaxThreads, port::MaxParallelism())) {}
  void Schedule(std::function<void()> task) override {
    pool_.Schedule(std::move(task));
  }
  int NumThreads() const override { return pool_.NumThreads(); }
  int CurrentThreadId() const override { return pool_.CurrentThreadId(); }

 private:
  thread::ThreadPool pool_;
};

// Made on first use by a load thread, whose priority their threads inherit. Two
// pools, because a thread of the one waits for work that it gives the other.
thread::ThreadPoolOptions LoadPools() {
  const auto make = [] {
    return std::make_pair(new Threads("model_load_inter"),
                          new Threads("model_load_intra"));
  };
  std::pair<Threads*, Threads*> pools;
  if (tf_model_pool::OnIdleThread()) {
    static const auto idle = make();
    pools = idle;
  } else {
    static const auto low = make();
    pools = low;
  }
  thread::ThreadPoolOptions options;
  options.inter_op_threadpool = pools.first;
  options.intra_op_threadpool = pools.second;
  return options;
}

using RunWithPools =
    std::function<absl::Status(const thread::ThreadPoolOptions&)>;

class WarmUpSession : public ForwardingSession {
 public:
  explicit WarmUpSession(std::unique_ptr<Session> session)
      : ForwardingSession(session.get()),
        owned_(std::move(session)),
        loader_(tf_model_pool::LoadingThread()) {}
  ~WarmUpSession() override {
    ForgetSessionModel(session());
    // Thousands of objects.
    tf_model_pool::RunAtLoadPriority([this] { owned_.reset(); });
  }

  Session* behind() const { return owned_.get(); }
  // Before it runs anything.
  void set_name(const std::string& name) { name_ = name; }

  absl::Status Create(const GraphDef& graph) override {
    return Import([&] { return session()->Create(graph); });
  }
  absl::Status Create(GraphDef&& graph) override {
    return Import([&] { return session()->Create(std::move(graph)); });
  }

  absl::Status Run(const Inputs& inputs, const Names& outputs,
                   const Names& targets,
                   std::vector<Tensor>* tensors) override {
    if (Serves()) return session()->Run(inputs, outputs, targets, tensors);
    RunMetadata metadata;
    return Run(RunOptions(), inputs, outputs, targets, tensors, &metadata);
  }

  absl::Status Run(const RunOptions& options, const Inputs& inputs,
                   const Names& outputs, const Names& targets,
                   std::vector<Tensor>* tensors,
                   RunMetadata* metadata) override {
    if (Serves()) {
      return session()->Run(options, inputs, outputs, targets, tensors,
                            metadata);
    }
    const auto run = [&](const thread::ThreadPoolOptions& pools) {
      return pools.inter_op_threadpool == nullptr
                 ? session()->Run(options, inputs, outputs, targets, tensors,
                                  metadata)
                 : session()->Run(options, inputs, outputs, targets, tensors,
                                  metadata, pools);
    };
    return BeforeServing(Signature(inputs, outputs, targets),
                         options.inter_op_thread_pool(), {}, run);
  }

  absl::Status Run(const RunOptions& options, const Inputs& inputs,
                   const Names& outputs, const Names& targets,
                   std::vector<Tensor>* tensors, RunMetadata* metadata,
                   const thread::ThreadPoolOptions& own_pools) override {
    const auto run = [&](const thread::ThreadPoolOptions& pools) {
      return session()->Run(options, inputs, outputs, targets, tensors,
                            metadata, pools);
    };
    if (Serves()) return run(own_pools);
    return BeforeServing(Signature(inputs, outputs, targets),
                         options.inter_op_thread_pool(), own_pools, run);
  }

  absl::Status MakeCallable(const CallableOptions& options,
                            CallableHandle* handle) override {
    if (Serves() || tf_model_pool::LoadingThread() != loader_) {
      return session()->MakeCallable(options, handle);
    }
    absl::Status status;
    tf_model_pool::RunAtLoadPriority(
        [&] { status = session()->MakeCallable(options, handle); });
    if (status.ok()) {
      const std::lock_guard<std::mutex> lock(mu_);
      inter_op_pools_[*handle] = options.run_options().inter_op_thread_pool();
    }
    return status;
  }

  absl::Status RunCallable(CallableHandle handle,
                           const std::vector<Tensor>& feeds,
                           std::vector<Tensor>* fetches,
                           RunMetadata* metadata) override {
    if (Serves()) {
      return session()->RunCallable(handle, feeds, fetches, metadata);
    }
    const auto run = [&](const thread::ThreadPoolOptions& pools) {
      return pools.inter_op_threadpool == nullptr
                 ? session()->RunCallable(handle, feeds, fetches, metadata)
                 : session()->RunCallable(handle, feeds, fetches, metadata,
                                          pools);
    };
    return BeforeServing(Signature(handle), InterOpPool(handle), {}, run);
  }

  absl::Status RunCallable(
      CallableHandle handle, const std::vector<Tensor>& feeds,
      std::vector<Tensor>* fetches, RunMetadata* metadata,
      const thread::ThreadPoolOptions& own_pools) override {
    const auto run = [&](const thread::ThreadPoolOptions& pools) {
      return session()->RunCallable(handle, feeds, fetches, metadata, pools);
    };
    if (Serves()) return run(own_pools);
    return BeforeServing(Signature(handle), InterOpPool(handle), own_pools,
                         run);
  }

 private:
  static absl::Status Import(const std::function<absl::Status()>& create) {
    absl::Status status;
    tf_model_pool::RunAtLoadPriority([&] { status = create(); });
    return status;
  }

  bool Serves() const { return serves_.load(std::memory_order_relaxed); }

  absl::Status BeforeServing(const std::string& signature, int inter_op_pool,
                             const thread::ThreadPoolOptions& own_pools,
                             const RunWithPools& run) {
    if (tf_model_pool::LoadingThread() != loader_) {
      BeginServing(signature);
      return run(own_pools);
    }
    if (!IsNew(signature)) return run(own_pools);
    absl::Status status;
    tf_model_pool::RunAtLoadPriority([&] {
      thread::ThreadPoolOptions pools = own_pools;
      if (inter_op_pool == 0 && pools.inter_op_threadpool == nullptr &&
          pools.intra_op_threadpool == nullptr &&
          tf_model_pool::ProcessSettings().load_priority !=
              tf_model_pool::Settings::LoadPriority::kNormal) {
        pools = LoadPools();
      }
      status = run(pools);
    });
    if (status.ok()) {
      const std::lock_guard<std::mutex> lock(mu_);
      warm_.insert(signature);
    }
    return status;
  }

  bool IsNew(const std::string& signature) const {
    const std::lock_guard<std::mutex> lock(mu_);
    return warm_.count(signature) == 0;
  }

  void BeginServing(const std::string& signature) {
    if (serves_.exchange(true) || !IsNew(signature)) return;
    tf_model_pool::CountColdVersion();
    LOG(WARNING) << "Model " << name_
                 << " serves a request of a kind that it was not warmed up "
                    "with: its first requests wait until TensorFlow has "
                    "optimized the graph and made the kernels. Run one such "
                    "request on the loading thread before.";
  }

  static std::string Signature(const Inputs& inputs, const Names& outputs,
                               const Names& targets) {
    Names fed;
    for (const auto& [name, tensor] : inputs) fed.push_back(name);
    std::string signature;
    // TensorFlow's own key is sorted as well.
    for (Names names : {fed, outputs, targets}) {
      std::sort(names.begin(), names.end());
      for (const std::string& name : names) signature += name + ",";
      signature += ";";
    }
    return signature;
  }

  static std::string Signature(CallableHandle handle) {
    return "#" + std::to_string(handle);
  }

  int InterOpPool(CallableHandle handle) const {
    const std::lock_guard<std::mutex> lock(mu_);
    const auto it = inter_op_pools_.find(handle);
    return it == inter_op_pools_.end() ? 0 : it->second;
  }

  std::unique_ptr<Session> owned_;
  std::string name_;
  const std::thread::id loader_;
  std::atomic<bool> serves_{false};
  mutable std::mutex mu_;
  std::set<std::string> warm_;
  std::map<CallableHandle, int> inter_op_pools_;
};

}  // namespace

std::unique_ptr<Session> NewWarmUpSession(std::unique_ptr<Session> session) {
  return std::make_unique<WarmUpSession>(std::move(session));
}

Session* BehindWarmUp(Session* session) {
  auto* warm_up = dynamic_cast<WarmUpSession*>(session);
  return warm_up == nullptr ? session : warm_up->behind();
}

void NameWarmUp(Session* session, const std::string& name) {
  auto* warm_up = dynamic_cast<WarmUpSession*>(session);
  if (warm_up != nullptr) warm_up->set_name(name);
}

}  // namespace tensorflow
