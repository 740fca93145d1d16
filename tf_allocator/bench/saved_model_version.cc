// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/saved_model_version.h"

#include <algorithm>
#include <map>
#include <memory>
#include <unordered_set>
#include <utility>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/common_runtime/session_factory.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/platform/threadpool.h"
#include "tensorflow/core/platform/tstring.h"
#include "tensorflow/core/protobuf/config.pb.h"
#include "tensorflow/core/public/session_options.h"
#include "tf_allocator/bench/pool_probe.h"
#include "tf_allocator/load/forwarding_session.h"

namespace tf_model_pool {
namespace bench {
namespace {

using tensorflow::Session;
using tensorflow::Tensor;

// RunOptions.inter_op_thread_pool: run in the caller's thread.
constexpr int kCallersThread = -1;

#define TF_BENCH_RETURN_IF_ERROR(expression)  \
  do {                                        \
    const absl::Status status = (expression); \
    if (!status.ok()) return status;          \
  } while (false)

// Tells the phases of the load that the calling thread makes with
// LoadSavedModel from what that does to its session.
class LoadObserver {
 public:
  LoadObserver(PhaseRecorder* recorder,
               const tensorflow::SavedModelBundle& bundle)
      : recorder_(recorder),
        bundle_(bundle),
        self_(std::make_shared<LoadObserver*>(this)) {
    current_ = self_;
    recorder_->Begin(Phase::kImport);
  }
  ~LoadObserver() {
    *self_ = nullptr;
    current_.reset();
  }
  LoadObserver(const LoadObserver&) = delete;
  LoadObserver& operator=(const LoadObserver&) = delete;

  // The calling thread's. Null inside as soon as its load has ended.
  static std::shared_ptr<LoadObserver*> Current() { return current_; }

  const std::string& restore_op() const {
    return bundle_.meta_graph_def.saver_def().restore_op_name();
  }
  void Imported() { Enter(Phase::kImport, Phase::kRestore); }
  // At the latest when the load has ended: not every load restores, and not
  // every restore is run by the session.
  void Restored() {
    Imported();
    Enter(Phase::kRestore, Phase::kInit);
  }

 private:
  void Enter(Phase from, Phase to) {
    if (phase_ != from) return;
    phase_ = to;
    recorder_->Begin(to);
  }

  static thread_local std::shared_ptr<LoadObserver*> current_;
  PhaseRecorder* const recorder_;
  const tensorflow::SavedModelBundle& bundle_;
  const std::shared_ptr<LoadObserver*> self_;
  Phase phase_ = Phase::kImport;
};

thread_local std::shared_ptr<LoadObserver*> LoadObserver::current_;

class ObservedSession : public tensorflow::ForwardingSession {
 public:
  ObservedSession(std::unique_ptr<Session> session,
                  std::shared_ptr<LoadObserver*> observer)
      : ForwardingSession(session.get()),
        owned_(std::move(session)),
        observer_(std::move(observer)) {}

  absl::Status Create(const tensorflow::GraphDef& graph) override {
    const absl::Status status = session()->Create(graph);
    if (LoadObserver* observer = Observer()) observer->Imported();
    return status;
  }
  absl::Status MakeCallable(const tensorflow::CallableOptions& options,
                            CallableHandle* handle) override {
    LoadObserver* const observer = Observer();
    const bool restores = observer != nullptr && options.target_size() == 1 &&
                          options.target(0) == observer->restore_op();
    if (observer != nullptr && !restores) observer->Restored();
    const absl::Status status = session()->MakeCallable(options, handle);
    if (restores && status.ok()) {
      restoring_ = true;
      restore_callable_ = *handle;
    }
    return status;
  }
  absl::Status ReleaseCallable(CallableHandle handle) override {
    const absl::Status status = session()->ReleaseCallable(handle);
    LoadObserver* const observer = Observer();
    if (observer != nullptr && restoring_ && handle == restore_callable_) {
      observer->Restored();
    }
    return status;
  }

 private:
  LoadObserver* Observer() const {
    return observer_ == nullptr ? nullptr : *observer_;
  }

  const std::unique_ptr<Session> owned_;
  const std::shared_ptr<LoadObserver*> observer_;
  bool restoring_ = false;
  CallableHandle restore_callable_ = 0;
};

// SessionOptions.target of the driver's sessions.
constexpr char kObserved[] = "swap_driver://observed";

class ObservedSessionFactory : public tensorflow::SessionFactory {
 public:
  bool AcceptsOptions(const tensorflow::SessionOptions& options) override {
    return options.target == kObserved;
  }
  absl::Status NewSession(const tensorflow::SessionOptions& options,
                          Session** session) override {
    tensorflow::SessionOptions plain = options;
    plain.target.clear();
    Session* made = nullptr;
    TF_BENCH_RETURN_IF_ERROR(tensorflow::NewSession(plain, &made));
    *session = new ObservedSession(std::unique_ptr<Session>(made),
                                   LoadObserver::Current());
    return absl::OkStatus();
  }
};

void RegisterObservedSessions() {
  static const bool registered = [] {
    tensorflow::SessionFactory::Register("SWAP_DRIVER",
                                         new ObservedSessionFactory);
    return true;
  }();
  (void)registered;
}

template <typename T>
double Sum(const Tensor& tensor) {
  double sum = 0;
  const T* values = static_cast<const T*>(tensor.data());
  for (int64_t i = 0; i < tensor.NumElements(); ++i) {
    sum += static_cast<double>(values[i]);
  }
  return sum;
}

// Strings count by their length; what has no value counts nothing.
double SumOf(const Tensor& tensor) {
  switch (tensor.dtype()) {
    case tensorflow::DT_FLOAT:
      return Sum<float>(tensor);
    case tensorflow::DT_DOUBLE:
      return Sum<double>(tensor);
    case tensorflow::DT_HALF:
      return Sum<Eigen::half>(tensor);
    case tensorflow::DT_BFLOAT16:
      return Sum<Eigen::bfloat16>(tensor);
    case tensorflow::DT_INT64:
      return Sum<int64_t>(tensor);
    case tensorflow::DT_INT32:
      return Sum<int32_t>(tensor);
    case tensorflow::DT_INT16:
      return Sum<int16_t>(tensor);
    case tensorflow::DT_INT8:
      return Sum<int8_t>(tensor);
    case tensorflow::DT_UINT64:
      return Sum<uint64_t>(tensor);
    case tensorflow::DT_UINT32:
      return Sum<uint32_t>(tensor);
    case tensorflow::DT_UINT16:
      return Sum<uint16_t>(tensor);
    case tensorflow::DT_UINT8:
      return Sum<uint8_t>(tensor);
    case tensorflow::DT_BOOL:
      return Sum<bool>(tensor);
    case tensorflow::DT_STRING: {
      double sum = 0;
      const auto* values =
          static_cast<const tensorflow::tstring*>(tensor.data());
      for (int64_t i = 0; i < tensor.NumElements(); ++i) {
        sum += static_cast<double>(values[i].size());
      }
      return sum;
    }
    default:
      return 0;
  }
}

tensorflow::SessionOptions SessionOptionsOf(const ServerConfig& server) {
  tensorflow::SessionOptions options;
  options.target = kObserved;
  auto& config = options.config;
  config.set_intra_op_parallelism_threads(server.intra_op_parallelism_threads);
  config.set_inter_op_parallelism_threads(server.inter_op_parallelism_threads);
  for (const ThreadPoolConfig& pool : server.session_inter_op_thread_pool) {
    auto* added = config.add_session_inter_op_thread_pool();
    added->set_num_threads(pool.num_threads);
    added->set_global_name(pool.global_name);
  }
  return options;
}

std::string Joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    text += (text.empty() ? "" : ", ") + word;
  }
  return text;
}

class LoadPool : public tensorflow::thread::ThreadPoolInterface {
 public:
  explicit LoadPool(int num_threads)
      : pool_(tensorflow::Env::Default(), "swap_driver_load", num_threads) {}
  void Schedule(std::function<void()> task) override {
    pool_.Schedule(std::move(task));
  }
  int NumThreads() const override { return pool_.NumThreads(); }
  int CurrentThreadId() const override { return pool_.CurrentThreadId(); }

 private:
  tensorflow::thread::ThreadPool pool_;
};

}  // namespace

std::unique_ptr<tensorflow::thread::ThreadPoolInterface> NewLoadPool(
    int num_threads) {
  return std::make_unique<LoadPool>(num_threads);
}

SavedModelVersion::SavedModelVersion(const Shared* shared,
                                     std::string directory)
    : shared_(*shared), directory_(std::move(directory)) {}

SavedModelVersion::~SavedModelVersion() {
  if (bundle_.session == nullptr) return;
  bundle_.session->Close().IgnoreError();
  bundle_.session.reset();
  // An update ends when its memory is free.
  PoolProbe().WaitForUnloads();
}

std::string SavedModelVersion::Load(PhaseRecorder* recorder) {
  const absl::Status status = LoadSteps(recorder);
  recorder->End();
  return status.ok() ? "" : status.ToString();
}

// LoadSavedModel, and then TensorFlow Serving's warm-up.
absl::Status SavedModelVersion::LoadSteps(PhaseRecorder* recorder) {
  const std::unordered_set<std::string> tags(shared_.model.tags.begin(),
                                             shared_.model.tags.end());
  tensorflow::RunOptions run_options;
  if (shared_.server.session_run_load_threadpool_index >= 0) {
    run_options.set_inter_op_thread_pool(
        shared_.server.session_run_load_threadpool_index);
  }
  RegisterObservedSessions();
  {
    LoadObserver observer(recorder, bundle_);
    TF_BENCH_RETURN_IF_ERROR(
        tensorflow::LoadSavedModel(SessionOptionsOf(shared_.server),
                                   run_options, directory_, tags, &bundle_));
    observer.Restored();
  }

  recorder->Begin(Phase::kWarmUp);
  TF_BENCH_RETURN_IF_ERROR(FindSignature());
  return WarmUp();
}

absl::Status SavedModelVersion::FindSignature() {
  const auto& signatures = bundle_.meta_graph_def.signature_def();
  const auto found = signatures.find(shared_.model.signature);
  if (found == signatures.end()) {
    std::vector<std::string> names;
    for (const auto& [name, signature] : signatures) names.push_back(name);
    return absl::NotFoundError("no signature " + shared_.model.signature +
                               "; it has: " + Joined(names));
  }
  // Sorted by key, as requests are.
  std::map<std::string, std::string> inputs;
  std::map<std::string, std::string> outputs;
  for (const auto& [key, info] : found->second.inputs()) {
    inputs[key] = info.name();
  }
  for (const auto& [key, info] : found->second.outputs()) {
    outputs[key] = info.name();
  }
  std::vector<std::string> keys;
  for (const auto& [key, tensor] : inputs) {
    keys.push_back(key);
    input_names_.push_back(tensor);
  }
  for (const auto& [key, tensor] : outputs) output_names_.push_back(tensor);
  if (shared_.server.run_in_caller_thread) {
    run_options_.set_inter_op_thread_pool(kCallersThread);
  }
  for (const RequestSet* set : {&shared_.requests, &shared_.warmup}) {
    if (!set->requests.empty() && set->inputs != keys) {
      return absl::InvalidArgumentError(
          "the requests' inputs are " + Joined(set->inputs) +
          "; the signature's are " + Joined(keys));
    }
  }
  return absl::OkStatus();
}

absl::Status SavedModelVersion::WarmUp() {
  tensorflow::thread::ThreadPoolOptions pools;
  if (shared_.load_pool != nullptr) {
    pools.inter_op_threadpool = shared_.load_pool;
  }
  // TensorFlow Serving uses its value only if it is above 0.
  const int iterations =
      std::max(1, shared_.server.num_request_iterations_for_warmup);
  for (const auto& request : shared_.warmup.requests) {
    for (int i = 0; i < iterations; ++i) {
      std::vector<Tensor> outputs;
      TF_BENCH_RETURN_IF_ERROR(RunRequest(request, pools, &outputs));
    }
  }
  return absl::OkStatus();
}

absl::Status SavedModelVersion::RunRequest(
    const std::vector<tensorflow::TensorProto>& request,
    const tensorflow::thread::ThreadPoolOptions& pools,
    std::vector<Tensor>* outputs) {
  // A server parses what it received into new tensors, from the allocator that
  // intermediate tensors come from.
  std::vector<std::pair<std::string, Tensor>> inputs(request.size());
  for (size_t i = 0; i < request.size(); ++i) {
    inputs[i].first = input_names_[i];
    if (!inputs[i].second.FromProto(request[i])) {
      return absl::InvalidArgumentError("a request's tensor is malformed");
    }
  }
  tensorflow::RunMetadata metadata;
  return bundle_.session->Run(run_options_, inputs, output_names_,
                              /*target_tensor_names=*/{}, outputs, &metadata,
                              pools);
}

int SavedModelVersion::Run(int32_t number,
                           const std::function<void()>& answered,
                           double* checksum) {
  const auto& requests = shared_.requests.requests;
  std::vector<Tensor> outputs;
  const absl::Status status =
      RunRequest(requests[static_cast<size_t>(number) % requests.size()],
                 tensorflow::thread::ThreadPoolOptions(), &outputs);
  answered();
  *checksum = 0;
  for (const Tensor& output : outputs) *checksum += SumOf(output);
  return static_cast<int>(status.code());
}

}  // namespace bench
}  // namespace tf_model_pool
