// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/saved_model_version.h"

#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <memory>
#include <unordered_set>
#include <utility>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/cc/saved_model/reader.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/platform/threadpool.h"
#include "tensorflow/core/platform/tstring.h"
#include "tensorflow/core/protobuf/config.pb.h"
#include "tensorflow/core/public/session_options.h"
#include "tf_allocator/runtime/forwarding_session.h"

namespace tf_model_pool {
namespace bench {
namespace {

using tensorflow::Session;
using tensorflow::Tensor;

// RunOptions.inter_op_thread_pool: run in the caller's thread.
constexpr int kCallersThread = -1;

using RestoreSessionFunction = decltype(&tensorflow::RestoreSession);

// Looked up and not linked: a patched wheel's libtensorflow_framework.so.2
// leaves this function to libtf_model_pool.so, which the driver must not need.
RestoreSessionFunction FindRestoreSession() {
  return reinterpret_cast<RestoreSessionFunction>(
      dlsym(RTLD_DEFAULT,
            "_ZN10tensorflow14RestoreSessionERKNS_10RunOptionsERKNS_"
            "12MetaGraphDefERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaI"
            "cEEEPSt10unique_ptrINS_7SessionESt14default_deleteISF_EE"));
}

#define TF_BENCH_RETURN_IF_ERROR(expression)  \
  do {                                        \
    const absl::Status status = (expression); \
    if (!status.ok()) return status;          \
  } while (false)

// Stands in front of a session to see where TensorFlow's RestoreSession, which
// restores and then initializes in one call, ends the one and begins the other.
class ObservedSession : public tensorflow::ForwardingSession {
 public:
  ObservedSession(std::unique_ptr<Session> session, std::string restore_op)
      : ForwardingSession(session.get()),
        owned_(std::move(session)),
        restore_op_(std::move(restore_op)) {}

  // Until this is called again, `restored` is called after the restore.
  void Observe(std::function<void()> restored) {
    restored_ = std::move(restored);
  }

  absl::Status MakeCallable(const tensorflow::CallableOptions& options,
                            CallableHandle* handle) override {
    const bool restores =
        options.target_size() == 1 && options.target(0) == restore_op_;
    if (!restores && restored_) restored_();
    const absl::Status status = session()->MakeCallable(options, handle);
    if (restores && status.ok()) {
      restoring_ = true;
      restore_callable_ = *handle;
    }
    return status;
  }
  absl::Status ReleaseCallable(CallableHandle handle) override {
    const absl::Status status = session()->ReleaseCallable(handle);
    if (restoring_ && handle == restore_callable_) {
      restoring_ = false;
      if (restored_) restored_();
    }
    return status;
  }

 private:
  const std::unique_ptr<Session> owned_;
  const std::string restore_op_;
  std::function<void()> restored_;
  bool restoring_ = false;
  CallableHandle restore_callable_ = 0;
};

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
  if (callable_made_) {
    bundle_.session->ReleaseCallable(callable_).IgnoreError();
  }
  bundle_.session->Close().IgnoreError();
  bundle_.session.reset();
}

std::string SavedModelVersion::Load(PhaseRecorder* recorder) {
  const absl::Status status = LoadSteps(recorder);
  recorder->End();
  return status.ok() ? "" : status.ToString();
}

// What LoadSavedModel does, step by step, and then TensorFlow Serving's
// warm-up.
absl::Status SavedModelVersion::LoadSteps(PhaseRecorder* recorder) {
  const std::unordered_set<std::string> tags(shared_.model.tags.begin(),
                                             shared_.model.tags.end());
  recorder->Begin(Phase::kImport);
  TF_BENCH_RETURN_IF_ERROR(tensorflow::ReadMetaGraphDefFromSavedModel(
      directory_, tags, &bundle_.meta_graph_def));
  TF_BENCH_RETURN_IF_ERROR(tensorflow::ReadSavedModelDebugInfoIfPresent(
      directory_, &bundle_.debug_info));
  TF_BENCH_RETURN_IF_ERROR(tensorflow::LoadMetagraphIntoSession(
      SessionOptionsOf(shared_.server), bundle_.meta_graph_def,
      &bundle_.session));

  recorder->Begin(Phase::kRestore);
  bool initializing = false;
  const auto initialize = [&] {
    if (!initializing) recorder->Begin(Phase::kInit);
    initializing = true;
  };
  tensorflow::RunOptions run_options;
  if (shared_.server.session_run_load_threadpool_index >= 0) {
    run_options.set_inter_op_thread_pool(
        shared_.server.session_run_load_threadpool_index);
  }
  auto observed = std::make_unique<ObservedSession>(
      std::move(bundle_.session),
      bundle_.meta_graph_def.saver_def().restore_op_name());
  ObservedSession* const observer = observed.get();
  observer->Observe(initialize);
  bundle_.session = std::move(observed);
  static const RestoreSessionFunction restore_session = FindRestoreSession();
  if (restore_session == nullptr) {
    return absl::NotFoundError("no library defines tensorflow::RestoreSession");
  }
  TF_BENCH_RETURN_IF_ERROR(restore_session(run_options, bundle_.meta_graph_def,
                                           directory_, &bundle_.session));
  initialize();
  observer->Observe(nullptr);

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
    callable_options_.add_feed(tensor);
  }
  for (const auto& [key, tensor] : outputs) callable_options_.add_fetch(tensor);
  if (shared_.server.run_in_caller_thread) {
    callable_options_.mutable_run_options()->set_inter_op_thread_pool(
        kCallersThread);
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

absl::Status SavedModelVersion::Callable(Session::CallableHandle* handle) {
  std::call_once(callable_once_, [this] {
    callable_status_ =
        bundle_.session->MakeCallable(callable_options_, &callable_);
    callable_made_ = callable_status_.ok();
  });
  *handle = callable_;
  return callable_status_;
}

absl::Status SavedModelVersion::RunRequest(
    const std::vector<tensorflow::TensorProto>& request,
    const tensorflow::thread::ThreadPoolOptions& pools,
    std::vector<Tensor>* outputs) {
  // A server parses what it received into new tensors, from the allocator that
  // intermediate tensors come from.
  std::vector<Tensor> inputs(request.size());
  for (size_t i = 0; i < request.size(); ++i) {
    if (!inputs[i].FromProto(request[i])) {
      return absl::InvalidArgumentError("a request's tensor is malformed");
    }
  }
  Session::CallableHandle handle = 0;
  TF_BENCH_RETURN_IF_ERROR(Callable(&handle));
  tensorflow::RunMetadata metadata;
  return bundle_.session->RunCallable(handle, inputs, outputs, &metadata,
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
