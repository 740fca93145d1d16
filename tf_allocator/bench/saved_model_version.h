// SPDX-License-Identifier: Apache-2.0
//
// A version of a model that is a SavedModel in a DirectSession: loaded with
// TensorFlow's LoadSavedModel, whose steps are phases, and served
// through Session::RunCallable.

#ifndef TF_ALLOCATOR_BENCH_SAVED_MODEL_VERSION_H_
#define TF_ALLOCATOR_BENCH_SAVED_MODEL_VERSION_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/threadpool_interface.h"
#include "tensorflow/core/platform/threadpool_options.h"
#include "tensorflow/core/public/session.h"
#include "tf_allocator/bench/config.h"
#include "tf_allocator/bench/phase_recorder.h"
#include "tf_allocator/bench/request_set.h"
#include "tf_allocator/bench/version_manager.h"

namespace tf_model_pool {
namespace bench {

// Threads that warm-up requests can run on.
std::unique_ptr<tensorflow::thread::ThreadPoolInterface> NewLoadPool(
    int num_threads);

class SavedModelVersion : public ModelVersion {
 public:
  // Shared by all versions of a model. Outlives them.
  struct Shared {
    ModelConfig model;
    ServerConfig server;
    RequestSet requests;
    RequestSet warmup;  // empty = no warm-up
    // Warm-up requests run there: TensorFlow Serving runs them on the load
    // thread pool, too. nullptr = on the threads of requests.
    tensorflow::thread::ThreadPoolInterface* load_pool = nullptr;
  };

  SavedModelVersion(const Shared* shared, std::string directory);
  ~SavedModelVersion() override;

  std::string Load(PhaseRecorder* recorder) override;
  int Run(int32_t number, const std::function<void()>& answered,
          double* checksum) override;

 private:
  absl::Status LoadSteps(PhaseRecorder* recorder);
  absl::Status FindSignature();
  absl::Status WarmUp();
  absl::Status RunRequest(const std::vector<tensorflow::TensorProto>& request,
                          const tensorflow::thread::ThreadPoolOptions& pools,
                          std::vector<tensorflow::Tensor>* outputs);

  const Shared& shared_;
  const std::string directory_;
  tensorflow::SavedModelBundle bundle_;
  // The signature's, sorted by key.
  std::vector<std::string> input_names_;
  std::vector<std::string> output_names_;
  tensorflow::RunOptions run_options_;
};

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_SAVED_MODEL_VERSION_H_
