// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/load/serving_session.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tensorflow/cc/saved_model/constants.h"
#include "tensorflow/core/platform/logging.h"
#include "tensorflow/core/platform/path.h"
#include "tf_allocator/device/load_totals.h"
#include "tf_allocator/device/process_settings.h"
#include "tf_allocator/load/forwarding_session.h"
#include "tf_allocator/load/run_kinds.h"
#include "tf_allocator/load/session_model.h"
#include "tf_allocator/load/unload_thread.h"
#include "tf_allocator/pool/at_fork.h"
#include "tf_allocator/pool/model_identity.h"
#include "tf_allocator/sched/load_thread.h"

namespace {
thread_local bool prepares = true;
}  // namespace

namespace tf_model_pool {
bool SetPreparing(bool on) { return std::exchange(prepares, on); }
}  // namespace tf_model_pool

namespace tensorflow {
namespace {

// The kinds that versions of a model have been asked for, newest first.
// Thread-safe.
class KindsOfModels {
 public:
  static KindsOfModels& OfProcess() {
    static auto* const kinds = new KindsOfModels;
    return *kinds;
  }

  void Add(const std::string& model_dir, RunKind kind) {
    const std::lock_guard<std::mutex> lock(mu_);
    auto& known = by_model_[model_dir];
    for (auto it = known.begin(); it != known.end(); ++it) {
      if (HashOf(*it) != HashOf(kind)) continue;
      known.erase(it);
      break;
    }
    known.push_front(std::move(kind));
    const auto most =
        static_cast<size_t>(tf_model_pool::ProcessSettings().prepare_runs);
    if (known.size() > most) known.resize(most);
  }

  std::deque<RunKind> Of(const std::string& model_dir) {
    const std::lock_guard<std::mutex> lock(mu_);
    return by_model_[model_dir];
  }

 private:
  tf_model_pool::ForkSafeMutex mu_;
  std::map<std::string, std::deque<RunKind>> by_model_;
};

// Hashes that have been seen, looked up without a lock. Forgets none, and takes
// no more when it is nearly full.
class SeenHashes {
 public:
  // Returns whether `hash` is there, or there is no room left for it.
  bool Has(uint64_t hash) const {
    for (size_t i = 0; i < kProbes; ++i) {
      const uint64_t seen =
          hashes_[(hash + i) % kSize].load(std::memory_order_relaxed);
      if (seen == hash) return true;
      if (seen == 0) return false;
    }
    return true;
  }
  // Returns whether it was not there before.
  bool Add(uint64_t hash) {
    for (size_t i = 0; i < kProbes; ++i) {
      uint64_t seen = 0;
      if (hashes_[(hash + i) % kSize].compare_exchange_strong(
              seen, hash, std::memory_order_relaxed)) {
        return true;
      }
      if (seen == hash) return false;
    }
    return false;
  }

 private:
  static constexpr size_t kSize = 512;
  static constexpr size_t kProbes = 16;
  std::array<std::atomic<uint64_t>, kSize> hashes_{};
};

class ServingSession : public ForwardingSession {
 public:
  explicit ServingSession(std::unique_ptr<Session> session)
      : ForwardingSession(session.get()), owned_(std::move(session)) {}
  ~ServingSession() override {
    ForgetSessionModel(session());
    // Now, because the next session may have its name (session_metadata).
    session()->Close().IgnoreError();
    // Thousands of objects, and executors that may still be in use.
    std::shared_ptr<Session> last = std::move(owned_);
    tf_model_pool::RunOnUnloadThread(
        [last = std::move(last)]() mutable { last.reset(); });
  }

  Session* behind() const { return owned_.get(); }

  void Prepare(const MetaGraphDef& meta_graph, const std::string& export_dir,
               bool large_constants) {
    const tf_model_pool::ModelIdentity identity =
        tf_model_pool::IdentityFromCheckpointPrefix(
            io::JoinPath(export_dir, kSavedModelVariablesDirectory,
                         kSavedModelVariablesFilename));
    name_ = identity.Name();
    model_dir_ = identity.model_dir;
    std::deque<RunKind> kinds = KindsOfModels::OfProcess().Of(model_dir_);
    if (!large_constants) {
      for (RunKind& kind : ServedKinds(meta_graph)) {
        kinds.push_back(std::move(kind));
      }
    }
    int left = prepares ? tf_model_pool::ProcessSettings().prepare_runs : 0;
    for (const RunKind& kind : kinds) {
      if (left == 0) break;
      if (prepared_.Has(HashOf(kind)) || !PrepareRun(session(), kind)) continue;
      prepared_.Add(HashOf(kind));
      --left;
    }
  }

  absl::Status Create(const GraphDef& graph) override {
    const tf_model_pool::GiveWay give_way;
    return session()->Create(graph);
  }
  absl::Status Create(GraphDef&& graph) override {
    const tf_model_pool::GiveWay give_way;
    return session()->Create(std::move(graph));
  }

  absl::Status Run(const Inputs& inputs, const Names& outputs,
                   const Names& targets,
                   std::vector<Tensor>* tensors) override {
    Note(inputs, outputs, targets);
    return session()->Run(inputs, outputs, targets, tensors);
  }
  absl::Status Run(const RunOptions& options, const Inputs& inputs,
                   const Names& outputs, const Names& targets,
                   std::vector<Tensor>* tensors,
                   RunMetadata* metadata) override {
    Note(inputs, outputs, targets);
    return session()->Run(options, inputs, outputs, targets, tensors, metadata);
  }
  absl::Status Run(const RunOptions& options, const Inputs& inputs,
                   const Names& outputs, const Names& targets,
                   std::vector<Tensor>* tensors, RunMetadata* metadata,
                   const thread::ThreadPoolOptions& pools) override {
    Note(inputs, outputs, targets);
    return session()->Run(options, inputs, outputs, targets, tensors, metadata,
                          pools);
  }
  absl::Status RunCallable(CallableHandle handle,
                           const std::vector<Tensor>& feeds,
                           std::vector<Tensor>* fetches,
                           RunMetadata* metadata) override {
    tf_model_pool::NoteServing();
    return session()->RunCallable(handle, feeds, fetches, metadata);
  }
  absl::Status RunCallable(CallableHandle handle,
                           const std::vector<Tensor>& feeds,
                           std::vector<Tensor>* fetches, RunMetadata* metadata,
                           const thread::ThreadPoolOptions& pools) override {
    tf_model_pool::NoteServing();
    return session()->RunCallable(handle, feeds, fetches, metadata, pools);
  }

 private:
  void Note(const Inputs& inputs, const Names& outputs, const Names& targets) {
    tf_model_pool::NoteServing();
    const uint64_t hash = HashOf(inputs, outputs, targets);
    if (!asked_.Has(hash)) NoteNew(hash, inputs, outputs, targets);
  }

  void NoteNew(uint64_t hash, const Inputs& inputs, const Names& outputs,
               const Names& targets) {
    if (!asked_.Add(hash) || name_.empty()) return;
    RunKind kind = {{}, outputs, targets};
    for (const auto& [name, tensor] : inputs) kind.feeds.push_back(name);
    if (kind.feeds.empty()) return;  // cannot be prepared
    KindsOfModels::OfProcess().Add(model_dir_, std::move(kind));
    if (prepared_.Has(hash)) return;
    tf_model_pool::CountColdVersion();
    if (cold_.exchange(true)) return;
    LOG(WARNING)
        << "Model " << name_
        << " serves a request of a kind that its load did not prepare: it "
           "waits until TensorFlow has optimized the graph and made the "
           "kernels. The next version is prepared for it.";
  }

  std::unique_ptr<Session> owned_;
  // Set before others use the session, as prepared_ is.
  std::string name_;
  std::string model_dir_;
  SeenHashes prepared_;
  SeenHashes asked_;
  std::atomic<bool> cold_{false};
};

}  // namespace

std::unique_ptr<Session> NewServingSession(std::unique_ptr<Session> session) {
  return std::make_unique<ServingSession>(std::move(session));
}

Session* BehindServing(Session* session) {
  auto* serving = dynamic_cast<ServingSession*>(session);
  return serving == nullptr ? session : serving->behind();
}

void PrepareToServe(Session* session, const MetaGraphDef& meta_graph,
                    const std::string& export_dir, bool large_constants) {
  auto* serving = dynamic_cast<ServingSession*>(session);
  if (serving != nullptr) {
    serving->Prepare(meta_graph, export_dir, large_constants);
  }
}

}  // namespace tensorflow
