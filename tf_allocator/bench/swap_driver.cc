// SPDX-License-Identifier: Apache-2.0
//
// swap_driver --config FILE.json --output DIR
//
// Serves models under an open-loop load and replaces their versions meanwhile,
// in one process, as TensorFlow Serving does; writes every request and every
// phase down. tf_allocator/bench/README.md describes configuration and result.

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/core/platform/threadpool_interface.h"
#include "tf_allocator/bench/affinity.h"
#include "tf_allocator/bench/arrivals.h"
#include "tf_allocator/bench/burner.h"
#include "tf_allocator/bench/config.h"
#include "tf_allocator/bench/counters.h"
#include "tf_allocator/bench/open_loop.h"
#include "tf_allocator/bench/parse_json.h"
#include "tf_allocator/bench/phase_recorder.h"
#include "tf_allocator/bench/pool_probe.h"
#include "tf_allocator/bench/process_sampler.h"
#include "tf_allocator/bench/request_set.h"
#include "tf_allocator/bench/run_log.h"
#include "tf_allocator/bench/saved_model_version.h"
#include "tf_allocator/bench/timeline.h"
#include "tf_allocator/bench/version_manager.h"
#include "tf_allocator/binary/json_value.h"

extern char** environ;

namespace tf_model_pool {
namespace bench {
namespace {

constexpr char kResultSchema[] = "tf_model_pool.bench.result/1";
constexpr char kUsage[] =
    "usage: swap_driver --config FILE.json --output DIR\n"
    "Serves models under load while their versions are replaced; writes\n"
    "DIR/requests.bin and DIR/result.json. Says \"swap_driver: running\" when "
    "the\n"
    "load begins.\n"
    "Exit status: 0 ok, 1 failure, 2 wrong configuration or usage, 128 + the\n"
    "signal after SIGINT or SIGTERM, with the results so far.\n";

constexpr int kOk = 0;
constexpr int kFailure = 1;
constexpr int kUsageError = 2;

// TensorFlow Serving's WarmupConsts::kMaxNumRecords.
constexpr size_t kMostWarmupRequests = 1000;

constexpr int64_t kSecondNs = 1000000000;
// Requests that wait at the end are dropped after that.
constexpr int64_t kDrainNs = 60 * kSecondNs;
constexpr int64_t kInterruptedDrainNs = 10 * kSecondNs;

int Fail(int status, const std::string& what) {
  std::fprintf(stderr, "swap_driver: %s\n", what.c_str());
  return status;
}

bool IsDirectory(const std::string& path) {
  struct stat info{};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

bool Exists(const std::string& path) {
  struct stat info{};
  return stat(path.c_str(), &info) == 0;
}

bool ReadFile(const std::string& path, std::string* text) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return false;
  text->assign(std::istreambuf_iterator<char>(file),
               std::istreambuf_iterator<char>());
  return !file.bad();
}

// Under a temporary name first: what has its name is whole.
std::string WriteFile(const std::string& path, const void* data, size_t size) {
  const std::string partial = path + ".partial";
  std::ofstream file(partial, std::ios::binary | std::ios::trunc);
  file.write(static_cast<const char*>(data),
             static_cast<std::streamsize>(size));
  file.close();
  if (!file || std::rename(partial.c_str(), path.c_str()) != 0) {
    const int error = errno;
    std::remove(partial.c_str());
    return path + ": " + std::strerror(error);
  }
  return "";
}

// Checks what only this machine can tell. Returns "" or what is wrong.
std::string CheckAgainstMachine(const Config& config) {
  for (size_t i = 0; i < config.models.size(); ++i) {
    const ModelConfig& model = config.models[i];
    const std::string field = "models[" + std::to_string(i) + "].";
    for (const std::string& version : model.versions) {
      if (!IsDirectory(version)) {
        return field + "versions: \"" + version +
               "\" is not allowed; expected directories of SavedModels";
      }
    }
    for (const auto& [name, file] : {std::make_pair("requests", model.requests),
                                     std::make_pair("warmup", model.warmup)}) {
      if (!file.empty() && (!Exists(file) || IsDirectory(file))) {
        return field + name + ": \"" + file +
               "\" is not allowed; expected a file";
      }
    }
  }
  const std::vector<int> there = ThreadAffinity();
  for (const auto& [name, cpus] :
       {std::make_pair("load.generator_cpus", config.load.generator_cpus),
        std::make_pair("load.server_cpus", config.load.server_cpus)}) {
    for (const int cpu : cpus) {
      if (std::find(there.begin(), there.end(), cpu) == there.end()) {
        std::string allowed;
        for (const int each : there) allowed += " " + std::to_string(each);
        return std::string(name) + ": CPU " + std::to_string(cpu) +
               " is not allowed; expected some of" + allowed;
      }
    }
  }
  return "";
}

// SIGINT and SIGTERM, which are blocked in every thread.
class Signals {
 public:
  Signals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGINT);
    sigaddset(&set_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }
  // Waits for a signal at most for `ns`. Returns the one that came first, or 0.
  int Wait(int64_t ns) {
    timespec timeout{};
    timeout.tv_sec = ns / kSecondNs;
    timeout.tv_nsec = ns % kSecondNs;
    const int signal = sigtimedwait(&set_, nullptr, &timeout);
    if (first_ == 0 && signal > 0) first_ = signal;
    return first_;
  }

 private:
  sigset_t set_;
  int first_ = 0;
};

// Lets the timeline happen, on a thread of its own.
class TimelinePlayer {
 public:
  TimelinePlayer(const Config* config, std::vector<TimelineEvent> events,
                 int64_t zero_ns, VersionManager* manager,
                 std::vector<std::unique_ptr<Burner>>* burners, RunLog* log)
      : config_(*config),
        events_(std::move(events)),
        zero_ns_(zero_ns),
        manager_(*manager),
        burners_(*burners),
        log_(log),
        begun_(burners->size()),
        thread_([this] { Play(); }) {}

  ~TimelinePlayer() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      stop_.notify_all();
    }
    thread_.join();
  }

  bool Finished() const { return finished_.load(); }

 private:
  void Play() {
    for (const TimelineEvent& event : events_) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        stop_.wait_until(lock,
                         std::chrono::steady_clock::time_point(
                             std::chrono::nanoseconds(zero_ns_ + event.at_ns)),
                         [this] { return stopping_; });
        if (stopping_) break;
      }
      Do(event);
    }
    for (size_t i = 0; i < begun_.size(); ++i) EndBurn(i);
    finished_.store(true);
  }

  void Do(const TimelineEvent& event) {
    const TimelineEntry& entry = config_.timeline[event.entry];
    switch (event.kind) {
      case TimelineEvent::Kind::kUpdate:
        manager_.Update(entry.models, stalls_);
        stalls_.clear();
        return;
      case TimelineEvent::Kind::kStall:
        stalls_.push_back(
            {entry.phase, static_cast<int64_t>(std::llround(entry.ms * 1e6))});
        return;
      case TimelineEvent::Kind::kBurnBegin:
        BeginBurn(event.burner, entry);
        return;
      case TimelineEvent::Kind::kBurnEnd:
        EndBurn(event.burner);
        return;
    }
  }

  void BeginBurn(size_t index, const TimelineEntry& entry) {
    Burner& burner = *burners_[index];
    auto record = std::make_unique<BurnRecord>();
    const bool stream = entry.action == TimelineEntry::Action::kBurnStream;
    record->kind = stream ? "burn_stream" : "burn_cpu";
    record->policy = burner.Policy();
    record->pid = burner.pid();
    record->begin_ns = MonotonicNs() - zero_ns_;
    if (!burner.Start(std::llround(entry.duration_s * 1e9),
                      stream ? entry.bytes : 0)) {
      log_->AddError("burner " + std::to_string(burner.pid()) + " is gone");
      return;
    }
    begun_[index] = std::move(record);
  }

  void EndBurn(size_t index) {
    if (begun_[index] == nullptr) return;
    begun_[index]->bytes = burners_[index]->Stop();
    begun_[index]->end_ns = MonotonicNs() - zero_ns_;
    log_->Add(*begun_[index]);
    begun_[index] = nullptr;
  }

  const Config& config_;
  const std::vector<TimelineEvent> events_;
  const int64_t zero_ns_;
  VersionManager& manager_;
  std::vector<std::unique_ptr<Burner>>& burners_;
  RunLog* const log_;
  std::vector<PlannedStall> stalls_;
  std::vector<std::unique_ptr<BurnRecord>> begun_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::atomic<bool> finished_{false};
  std::thread thread_;
};

void ServeRequest(const ScheduledRequest& request, VersionManager* manager,
                  StallGate* gate, int64_t zero_ns, RequestRecord* record) {
  const ThreadCounters before = ReadThreadCounters();
  record->start_ns = MonotonicNs() - zero_ns;
  gate->Pass();
  const auto answered = [&] {
    record->end_ns = MonotonicNs() - zero_ns;
    const ThreadCounters after = ReadThreadCounters();
    record->runqueue_ns = after.runqueue_ns - before.runqueue_ns;
    record->minor_faults =
        static_cast<int32_t>(after.minor_faults - before.minor_faults);
    record->major_faults =
        static_cast<int32_t>(after.major_faults - before.major_faults);
    record->voluntary_switches = static_cast<int32_t>(
        after.voluntary_switches - before.voluntary_switches);
    record->involuntary_switches = static_cast<int32_t>(
        after.involuntary_switches - before.involuntary_switches);
  };
  const auto lease = manager->Serving(request.model);
  if (lease == nullptr) {
    answered();
    record->status = RequestRecord::kNoVersion;
    return;
  }
  record->version = static_cast<int16_t>(lease->index());
  record->status = static_cast<int16_t>(lease->version()->Run(
      request.number, std::cref(answered), &record->checksum));
}

// Settings that change what is measured.
JsonValue Environment() {
  JsonValue environment = JsonValue::Object();
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    const size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    const bool matters =
        name.rfind("TF_", 0) == 0 || name.rfind("LD_", 0) == 0 ||
        name.rfind("MALLOC_", 0) == 0 || name.rfind("MIMALLOC_", 0) == 0 ||
        name.rfind("TCMALLOC_", 0) == 0 || name.rfind("OMP_", 0) == 0 ||
        name.rfind("GLIBC_TUNABLES", 0) == 0;
    if (matters && equals != std::string::npos) {
      environment.Set(name, text.substr(equals + 1));
    }
  }
  return environment;
}

// The file that TensorFlow's functions come from.
std::string LibraryPath() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(&TF_Version), &info) == 0) return "";
  return info.dli_fname;
}

struct Outcome {
  std::string tensorflow_version;
  int64_t zero_unix_ns = 0;
  int64_t duration_ns = 0;
  size_t dropped = 0;
  bool interrupted = false;
};

std::string WriteResults(const std::string& directory, const Config& config,
                         const JsonValue& config_json, const Outcome& outcome,
                         const std::vector<RequestRecord>& served,
                         const RunLog& log, const PoolProbe& probe) {
  std::string error = WriteFile(directory + "/requests.bin", served.data(),
                                served.size() * sizeof(RequestRecord));
  if (!error.empty()) return error;
  JsonValue result = JsonValue::Object();
  result.Set("schema", kResultSchema);
  result.Set("config", config_json);
  result.Set("tensorflow_version", outcome.tensorflow_version);
  result.Set("library", LibraryPath());
  result.Set("environment", Environment());
  result.Set("pools_active", probe.Active());
  result.Set("pool_status", probe.Status());
  result.Set("zero_unix_ns", outcome.zero_unix_ns);
  result.Set("duration_ns", outcome.duration_ns);
  result.Set("interrupted", outcome.interrupted);
  result.Set("requests", static_cast<int64_t>(served.size()));
  result.Set("dropped", static_cast<int64_t>(outcome.dropped));
  log.AddTo(config, &result);
  const std::string text = result.ToText() + "\n";
  return WriteFile(directory + "/result.json", text.data(), text.size());
}

// Requests and warm-up requests of every model. Returns "" or what is wrong.
std::string ReadAllRequests(
    const Config& config, tensorflow::thread::ThreadPoolInterface* load_pool,
    std::vector<std::unique_ptr<SavedModelVersion::Shared>>* shared) {
  for (size_t i = 0; i < config.models.size(); ++i) {
    auto model = std::make_unique<SavedModelVersion::Shared>();
    model->model = config.models[i];
    model->server = config.server;
    model->load_pool = load_pool;
    const std::string field = "models[" + std::to_string(i) + "].";
    std::string error =
        ReadRequests(model->model.requests, 0, &model->requests);
    if (!error.empty()) return field + "requests: " + error;
    if (!model->model.warmup.empty()) {
      error = ReadRequests(model->model.warmup, kMostWarmupRequests,
                           &model->warmup);
      if (!error.empty()) return field + "warmup: " + error;
    }
    shared->push_back(std::move(model));
  }
  return "";
}

// One run, from the configuration to the results.
class Driver {
 public:
  Driver(std::string config_path, std::string output)
      : config_path_(std::move(config_path)), output_(std::move(output)) {}

  // Returns the exit status.
  int Run() {
    std::string error = ReadConfig();
    if (error.empty()) error = CheckAgainstMachine(config_);
    if (!error.empty()) return Fail(kUsageError, config_path_ + ": " + error);
    error = MakeOutput();
    if (!error.empty()) {
      return Fail(kUsageError, "--output " + output_ + ": " + error);
    }
    // All threads that start from here on inherit both.
    signals_.emplace();
    if (!config_.load.server_cpus.empty()) {
      SetThreadAffinity(config_.load.server_cpus);
    }
    error = CreateBurners();
    if (!error.empty()) return Fail(kFailure, error);
    MakeLoadPool();
    error = ReadAllRequests(config_, load_pool_.get(), &shared_);
    if (!error.empty()) return Fail(kUsageError, config_path_ + ": " + error);
    error = LoadFirst();
    if (const int signal = signals_->Wait(0)) return 128 + signal;
    if (!error.empty()) return Fail(kFailure, error);
    Serve();
    return Finish();
  }

 private:
  // This and the next return "" or what is wrong.
  std::string ReadConfig() {
    std::string text;
    if (!ReadFile(config_path_, &text)) return std::strerror(errno);
    std::string error;
    if (!ParseJson(text, &config_json_, &error)) {
      std::replace(error.begin(), error.end(), '\n', ' ');
      return "is not JSON: " + error;
    }
    return ParseConfig(config_json_, &config_, &error) ? "" : error;
  }

  std::string MakeOutput() const {
    for (const char* name : {"/requests.bin", "/result.json"}) {
      if (Exists(output_ + name)) {
        return "holds results already; expected a directory that is new or "
               "empty";
      }
    }
    if (!IsDirectory(output_) && mkdir(output_.c_str(), 0777) != 0) {
      return std::strerror(errno);
    }
    return "";
  }

  std::string CreateBurners() {
    events_ = MakeTimeline(config_);
    std::string error;
    while (burners_.size() < BurnersNeeded(events_)) {
      burners_.push_back(Burner::Create(&error));
      if (burners_.back() == nullptr) return error;
    }
    return "";
  }

  // For restore and init ops, if the configuration gives them one.
  void MakeLoadPool() {
    const int index = config_.server.session_run_load_threadpool_index;
    if (index < 0) return;
    const auto& pools = config_.server.session_inter_op_thread_pool;
    int threads = 0;
    if (static_cast<size_t>(index) < pools.size()) {
      threads = pools[static_cast<size_t>(index)].num_threads;
    }
    if (threads == 0) threads = static_cast<int>(ThreadAffinity().size());
    load_pool_ = NewLoadPool(threads);
  }

  std::string LoadFirst() {
    manager_.emplace(
        &config_,
        [this](int model, int version) {
          const SavedModelVersion::Shared* of =
              shared_[static_cast<size_t>(model)].get();
          return std::make_unique<SavedModelVersion>(
              of, of->model.versions[static_cast<size_t>(version)]);
        },
        &gate_, &log_, probe_);
    return manager_->LoadFirst([this] { return signals_->Wait(0) != 0; });
  }

  // Sends the requests and lets the timeline happen, to their end or a signal.
  void Serve() {
    outcome_.tensorflow_version = TF_Version();
    const std::vector<ScheduledRequest> schedule = MakeSchedule(config_);
    OpenLoop::Options options;
    options.request_threads = config_.load.request_threads;
    options.generator_cpus = config_.load.generator_cpus;
    // Threads start before zero, so that none is late.
    constexpr int64_t kLeadNs = 20000000;
    const int64_t zero_ns = MonotonicNs() + kLeadNs;
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    outcome_.zero_unix_ns =
        now.tv_sec * kSecondNs + now.tv_nsec + (zero_ns - MonotonicNs());
    OpenLoop load(options, &schedule,
                  [&](const ScheduledRequest& request, RequestRecord* record) {
                    ServeRequest(request, &*manager_, &gate_, zero_ns, record);
                  });
    manager_->Start(zero_ns);
    {
      ProcessSampler sampler(zero_ns, &log_, [this](int64_t bytes) {
        manager_->NoteResident(bytes);
      });
      TimelinePlayer player(&config_, events_, zero_ns, &*manager_, &burners_,
                            &log_);
      load.Start(zero_ns);
      std::puts("swap_driver: running");
      std::fflush(stdout);
      AwaitEnd(zero_ns, player, &load);
      outcome_.interrupted = signals_->Wait(0) != 0;
      load.StopSending();
      load.Join(outcome_.interrupted ? kInterruptedDrainNs : 0);
      outcome_.duration_ns = MonotonicNs() - zero_ns;
    }
    outcome_.dropped = load.dropped();
    served_ = load.Served();
  }

  void AwaitEnd(int64_t zero_ns, const TimelinePlayer& player, OpenLoop* load) {
    const int64_t end_ns = zero_ns + std::llround(config_.duration_s * 1e9);
    constexpr int64_t kPollNs = 20000000;
    int64_t drain_until_ns = end_ns + kDrainNs;
    while (signals_->Wait(kPollNs) == 0) {
      const int64_t at_ns = MonotonicNs();
      if (at_ns < end_ns || !player.Finished() || !manager_->Idle()) {
        // A long update is no reason to drop requests.
        if (at_ns >= end_ns) drain_until_ns = at_ns + kDrainNs;
        continue;
      }
      if (load->Finished() || at_ns >= drain_until_ns) break;
    }
  }

  // Writes the results. Returns the exit status.
  int Finish() {
    const std::string error = WriteResults(output_, config_, config_json_,
                                           outcome_, served_, log_, probe_);
    if (!error.empty()) Fail(kFailure, error);
    int status = error.empty() && log_.errors().empty() ? kOk : kFailure;
    for (const std::string& each : log_.errors()) Fail(kFailure, each);
    if (outcome_.interrupted) {
      status = 128 + signals_->Wait(0);
      // An update may still run, and TensorFlow cannot be asked to give it up.
      if (!manager_->Idle()) {
        burners_.clear();
        std::fflush(nullptr);
        _exit(status);
      }
    }
    return status;
  }

  const std::string config_path_;
  const std::string output_;
  JsonValue config_json_;
  Config config_;
  std::optional<Signals> signals_;
  std::vector<TimelineEvent> events_;
  std::vector<std::unique_ptr<Burner>> burners_;
  std::unique_ptr<tensorflow::thread::ThreadPoolInterface> load_pool_;
  std::vector<std::unique_ptr<SavedModelVersion::Shared>> shared_;
  const PoolProbe probe_{};
  RunLog log_;
  StallGate gate_;
  std::optional<VersionManager> manager_;
  Outcome outcome_;
  std::vector<RequestRecord> served_;
};

int Main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == kBurnFlag) {
    return BurnerMain(argc, argv);
  }
  std::string config;
  std::string output;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "-h" || argument == "--help") {
      std::fputs(kUsage, stdout);
      return kOk;
    }
    std::string* value = argument == "--config"   ? &config
                         : argument == "--output" ? &output
                                                  : nullptr;
    if (value == nullptr) {
      return Fail(kUsageError, "unknown argument " + argument +
                                   "; expected --config or --output");
    }
    if (i + 1 == argc) return Fail(kUsageError, argument + ": needs a value");
    *value = argv[++i];
  }
  if (config.empty() || output.empty()) {
    std::fputs(kUsage, stderr);
    return kUsageError;
  }
  return Driver(config, output).Run();
}

}  // namespace
}  // namespace bench
}  // namespace tf_model_pool

int main(int argc, char** argv) {
  return tf_model_pool::bench::Main(argc, argv);
}
