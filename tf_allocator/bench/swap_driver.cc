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
#include "tf_allocator/binary/json_value.h"
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

// As TensorFlow Serving: WarmupConsts::kMaxNumRecords.
constexpr size_t kMostWarmupRequests = 1000;

constexpr int64_t kSecondNs = 1000000000;
// How long requests that wait at the end may take before they are dropped.
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

// What only this machine can tell. Returns "" or what is wrong.
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

int Run(const std::string& config_path, const std::string& output) {
  std::string text;
  std::string error;
  if (!ReadFile(config_path, &text)) {
    return Fail(kUsageError, config_path + ": " + std::strerror(errno));
  }
  JsonValue config_json;
  if (!ParseJson(text, &config_json, &error)) {
    std::replace(error.begin(), error.end(), '\n', ' ');
    return Fail(kUsageError, config_path + ": is not JSON: " + error);
  }
  Config config;
  if (!ParseConfig(config_json, &config, &error)) {
    return Fail(kUsageError, config_path + ": " + error);
  }
  error = CheckAgainstMachine(config);
  if (!error.empty()) return Fail(kUsageError, config_path + ": " + error);
  for (const char* name : {"/requests.bin", "/result.json"}) {
    if (Exists(output + name)) {
      return Fail(kUsageError, "--output " + output +
                                   ": holds results already; expected a "
                                   "directory that is new or empty");
    }
  }
  if (!IsDirectory(output) && mkdir(output.c_str(), 0777) != 0) {
    return Fail(kUsageError,
                "--output " + output + ": " + std::strerror(errno));
  }

  // All threads that start from here on inherit both.
  Signals signals;
  if (!config.load.server_cpus.empty()) {
    SetThreadAffinity(config.load.server_cpus);
  }

  const std::vector<TimelineEvent> events = MakeTimeline(config);
  std::vector<std::unique_ptr<Burner>> burners;
  while (burners.size() < BurnersNeeded(events)) {
    burners.push_back(Burner::Create(&error));
    if (burners.back() == nullptr) return Fail(kFailure, error);
  }

  const int load_index = config.server.session_run_load_threadpool_index;
  std::unique_ptr<tensorflow::thread::ThreadPoolInterface> load_pool;
  if (load_index >= 0) {
    int threads = 0;
    const auto& pools = config.server.session_inter_op_thread_pool;
    if (static_cast<size_t>(load_index) < pools.size()) {
      threads = pools[static_cast<size_t>(load_index)].num_threads;
    }
    if (threads == 0) threads = static_cast<int>(ThreadAffinity().size());
    load_pool = NewLoadPool(threads);
  }
  std::vector<std::unique_ptr<SavedModelVersion::Shared>> shared;
  error = ReadAllRequests(config, load_pool.get(), &shared);
  if (!error.empty()) return Fail(kUsageError, config_path + ": " + error);

  const PoolProbe probe;
  RunLog log;
  StallGate gate;
  VersionManager manager(
      &config,
      [&](int model, int version) {
        const SavedModelVersion::Shared* of =
            shared[static_cast<size_t>(model)].get();
        return std::make_unique<SavedModelVersion>(
            of, of->model.versions[static_cast<size_t>(version)]);
      },
      &gate, &log, probe);
  error = manager.LoadFirst([&] { return signals.Wait(0) != 0; });
  if (const int signal = signals.Wait(0)) return 128 + signal;
  if (!error.empty()) return Fail(kFailure, error);

  Outcome outcome;
  outcome.tensorflow_version = TF_Version();
  const std::vector<ScheduledRequest> schedule = MakeSchedule(config);
  OpenLoop::Options options;
  options.request_threads = config.load.request_threads;
  options.generator_cpus = config.load.generator_cpus;
  // Threads start before zero, so that none is late.
  constexpr int64_t kLeadNs = 20000000;
  const int64_t zero_ns = MonotonicNs() + kLeadNs;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  outcome.zero_unix_ns =
      now.tv_sec * kSecondNs + now.tv_nsec + (zero_ns - MonotonicNs());
  OpenLoop load(options, &schedule,
                [&](const ScheduledRequest& request, RequestRecord* record) {
                  ServeRequest(request, &manager, &gate, zero_ns, record);
                });
  manager.Start(zero_ns);
  {
    ProcessSampler sampler(zero_ns, &log,
                           [&](int64_t bytes) { manager.NoteResident(bytes); });
    TimelinePlayer player(&config, events, zero_ns, &manager, &burners, &log);
    load.Start(zero_ns);
    std::puts("swap_driver: running");
    std::fflush(stdout);
    const int64_t end_ns = zero_ns + std::llround(config.duration_s * 1e9);
    constexpr int64_t kPollNs = 20000000;
    int64_t drain_until_ns = end_ns + kDrainNs;
    while (signals.Wait(kPollNs) == 0) {
      const int64_t at_ns = MonotonicNs();
      if (at_ns < end_ns || !player.Finished() || !manager.Idle()) {
        // A long update is no reason to drop requests.
        if (at_ns >= end_ns) drain_until_ns = at_ns + kDrainNs;
        continue;
      }
      if (load.Finished() || at_ns >= drain_until_ns) break;
    }
    outcome.interrupted = signals.Wait(0) != 0;
    load.StopSending();
    load.Join(outcome.interrupted ? kInterruptedDrainNs : 0);
    outcome.duration_ns = MonotonicNs() - zero_ns;
  }
  outcome.dropped = load.dropped();
  error = WriteResults(output, config, config_json, outcome, load.Served(), log,
                       probe);
  if (!error.empty()) Fail(kFailure, error);
  int status = error.empty() && log.errors().empty() ? kOk : kFailure;
  for (const std::string& each : log.errors()) Fail(kFailure, each);
  if (outcome.interrupted) {
    status = 128 + signals.Wait(0);
    // An update may still run, and TensorFlow cannot be asked to give it up.
    if (!manager.Idle()) {
      burners.clear();
      std::fflush(nullptr);
      _exit(status);
    }
  }
  return status;
}

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
  return Run(config, output);
}

}  // namespace
}  // namespace bench
}  // namespace tf_model_pool

int main(int argc, char** argv) {
  return tf_model_pool::bench::Main(argc, argv);
}
