// SPDX-License-Identifier: Apache-2.0
//
// A run of the driver, as its configuration file describes it. Fields of the
// server have TensorFlow Serving's names and meaning; README.md explains each.

#ifndef TF_ALLOCATOR_BENCH_CONFIG_H_
#define TF_ALLOCATOR_BENCH_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tf_allocator/binary/json_value.h"

namespace tf_model_pool {
namespace bench {

inline constexpr char kConfigSchema[] = "tf_model_pool.bench.driver/1";

// The steps of an update, in the order in which the driver goes through them
// when it preserves availability.
enum class Phase {
  kImport,
  kRestore,
  kInit,
  kWarmUp,
  kSwitch,
  kDrain,
  kUnload,
};

// "import", "restore", ...
const char* PhaseName(Phase phase);

struct ModelConfig {
  std::string name;
  std::vector<std::string> versions;  // directories; the first is served first
  std::vector<std::string> tags = {"serve"};
  std::string signature = "serving_default";
  std::string requests;  // TFRecord of RunGraphRequest
  std::string warmup;    // the same; "" = no warm-up
  double rate = 0;       // requests per second
};

enum class Arrival { kPoisson, kFixed };

struct LoadConfig {
  Arrival arrival = Arrival::kPoisson;
  int request_threads = 1;
  std::vector<int> generator_cpus;  // empty = any
  std::vector<int> server_cpus;     // empty = any
  double ignore_first_s = 0;        // for whoever reads the result
};

struct ThreadPoolConfig {
  int num_threads = 0;  // 0 = as many as there are CPUs
  std::string global_name;
};

enum class VersionPolicy { kAvailabilityPreserving, kResourcePreserving };

struct ServerConfig {
  int num_load_threads = 0;    // 0 = on the manager's thread
  int num_unload_threads = 0;  // 0 = on the manager's thread
  std::vector<ThreadPoolConfig> session_inter_op_thread_pool;
  int session_run_load_threadpool_index = -1;  // -1 = not set
  int intra_op_parallelism_threads = 0;        // 0 = TensorFlow's choice
  int inter_op_parallelism_threads = 0;
  VersionPolicy aspired_version_policy = VersionPolicy::kAvailabilityPreserving;
  int num_request_iterations_for_warmup = 1;
  bool run_in_caller_thread = false;
};

struct TimelineEntry {
  enum class Action { kUpdate, kBurnCpu, kBurnStream, kStall };
  double at_s = 0;
  Action action = Action::kUpdate;
  std::vector<int> models;        // of an update: indices into Config::models
  double duration_s = 0;          // of a burn
  int64_t bytes = 0;              // of kBurnStream
  Phase phase = Phase::kRestore;  // of a stall
  double ms = 0;                  // of a stall
};

struct Config {
  double duration_s = 0;
  uint64_t seed = 0;
  std::vector<ModelConfig> models;
  LoadConfig load;
  ServerConfig server;
  std::vector<TimelineEntry> timeline;  // in order of at_s
  double slow_ms = 0;                   // 0 = not set
};

// Reads a configuration. Returns false and one line in `error` that names the
// field, its value and what is allowed. Unknown fields are errors. Files are
// not looked at.
bool ParseConfig(const JsonValue& json, Config* config, std::string* error);

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_CONFIG_H_
