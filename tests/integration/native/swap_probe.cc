// SPDX-License-Identifier: Apache-2.0
//
// Loads SavedModels with C++ LoadSavedModel and prints, one JSON object a line,
// where their memory lies. tests/integration/test_swap_probe.py builds and
// reads it.
//
//   swap_probe isolate INTRA REQUEST DIR1 DIR2 DIR3
//     loads DIR1 and DIR2, runs one traced request on each, unloads DIR1, loads
//     DIR3. INTRA is intra_op_parallelism_threads, 0 = unset.
//   swap_probe constants REQUEST DIR1 DIR2 DIR3
//     the same for models whose weights are constants: one untraced request on
//     each as it is loaded, DIR1 unloaded before DIR3 is loaded.
//   swap_probe swap SWAPS THREADS REQUESTS ANSWERS DIR...
//     serves requests on THREADS threads while the main thread loads the
//     directories in turn and drops the version before, SWAPS times.
//   swap_probe names SESSIONS DIR
//     loads DIR for as many sessions, each with a name (session_metadata),
//     serves on another thread, drops all and loads the last again; prints the
//     status of that.
//   swap_probe visit DIR
//     loads DIR with visitors of the CPU allocators registered, unloads it,
//     trims the pools; prints what the visitors saw.
//   swap_probe load KIND DIR...
//     loads each directory in turn and prints what is in its variables, or why
//     it could not be loaded. KIND is full or lite, the overload's bundle.
//   swap_probe pauses alone|serving DIR
//     loads DIR, after a request to it if serving, and prints how often the
//     loading thread slept and what was read.
//   swap_probe kinds DIR1 DIR2
//     serves DIR1 on a thread that did not load it: the whole signature, then
//     a part of its outputs; then DIR2 in the same way. Prints the count of
//     requests that were not prepared for after each.
//   swap_probe status DIR
//     loads DIR and asks whether pools are active, once and then a hundred
//     times; prints how often symbol tables were searched for the latter.
//   swap_probe metrics DIR1 DIR2 DIR3
//     swaps from DIR1 over DIR2 to DIR3, unloads all, trims; prints the pools
//     and TensorFlow's monitoring registry after each step.
//
// REQUEST(S) is raw int32 [requests, kBatch, kFields]. ANSWERS is raw float32
// [directories, requests, kBatch]: what each version says to each request.
// WITHOUT_MODEL_POOLS leaves the pools out, for the released TensorFlow.

#include <dlfcn.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/cc/saved_model/reader.h"
#include "tensorflow/core/common_runtime/device_mgr.h"
#include "tensorflow/core/common_runtime/process_state.h"
#include "tensorflow/core/framework/device.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/step_stats.pb.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/lib/monitoring/collected_metrics.h"
#include "tensorflow/core/lib/monitoring/collection_registry.h"
#include "tensorflow/core/platform/tstring.h"
#include "tensorflow/core/protobuf/saved_model.pb.h"
#include "tensorflow/core/public/session.h"
#include "tensorflow/core/public/session_options.h"
#ifndef WITHOUT_MODEL_POOLS
#include "tf_allocator/device/load_totals.h"
#include "tf_allocator/load/unload_thread.h"
#include "tf_allocator/report/introspection.h"

std::atomic<int> symbol_searches{0};

// Takes the place of the C library's, for the library under test too.
extern "C" int dladdr(const void* address, Dl_info* info) {
  static const auto original =
      reinterpret_cast<decltype(&dladdr)>(dlsym(RTLD_NEXT, "dladdr"));
  ++symbol_searches;
  return original(address, info);
}
#endif

namespace {

using tensorflow::Tensor;

constexpr int64_t kBatch = 512;
constexpr int64_t kFields = 8;

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "swap_probe: %s\n", what.c_str());
  std::exit(1);
}

template <typename T>
std::vector<T> ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) Fail("cannot read " + path);
  const std::string bytes((std::istreambuf_iterator<char>(file)),
                          std::istreambuf_iterator<char>());
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

std::string PoolOf(const void* address) {
#ifdef WITHOUT_MODEL_POOLS
  return "";
#else
  return tensorflow::ProcessState::singleton()->ModelPoolOf(address);
#endif
}

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return quoted + "\"";
}

std::string Number(uint64_t value) { return std::to_string(value); }

uint64_t Address(const void* pointer) {
  return static_cast<uint64_t>(reinterpret_cast<uintptr_t>(pointer));
}

uint64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t size = 0;
  uint64_t resident = 0;
  file >> size >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

uint64_t MapsLines() {
  std::ifstream file("/proc/self/maps");
  uint64_t lines = 0;
  for (std::string line; std::getline(file, line);) ++lines;
  return lines;
}

uint64_t MinorFaults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_minflt);
}

// The process and its pools now: one line tagged `when`.
void PrintState(const std::string& when) {
#ifndef WITHOUT_MODEL_POOLS
  // Of versions that were dropped.
  tf_model_pool::WaitForUnloads();
#endif
  std::string line = "{\"event\":\"state\",\"when\":" + Quoted(when) +
                     ",\"resident\":" + Number(ResidentBytes()) +
                     ",\"maps\":" + Number(MapsLines()) +
                     ",\"faults\":" + Number(MinorFaults()) + ",\"pools\":[";
#ifndef WITHOUT_MODEL_POOLS
  bool first = true;
  for (const auto& pool :
       tensorflow::ProcessState::singleton()->ListModelPools()) {
    if (!first) line += ',';
    first = false;
    line += "{\"name\":" + Quoted(pool.name) +
            ",\"model_dir\":" + Quoted(pool.model_dir) +
            ",\"version\":" + Quoted(pool.version) +
            ",\"slot\":" + Quoted(std::string(1, pool.slot)) +
            ",\"state\":" + Quoted(tf_model_pool::PoolStateName(pool.state)) +
            ",\"bytes_in_use\":" + Number(pool.bytes_in_use) +
            ",\"bytes_reserved\":" + Number(pool.bytes_reserved) +
            ",\"fallback_bytes\":" + Number(pool.fallback_bytes) +
            ",\"num_tensors\":" + Number(pool.num_tensors) +
            ",\"num_regions\":" + Number(pool.num_regions) +
            ",\"num_mappings\":" + Number(pool.num_mappings) +
            ",\"prefault_ns\":" + Number(pool.prefault_ns) + "}";
  }
#endif
  std::printf("%s]}\n", line.c_str());
}

// One loaded version; requesting threads share it.
class Version {
 public:
  Version(const std::string& directory, int intra_threads, size_t index)
      : directory_(directory), index_(index) {
    tensorflow::SessionOptions options;
    if (intra_threads > 0) {
      options.config.set_intra_op_parallelism_threads(intra_threads);
    }
    const auto status = tensorflow::LoadSavedModel(
        options, tensorflow::RunOptions(), directory, {"serve"}, &bundle_);
    if (!status.ok()) Fail("load " + directory + ": " + status.ToString());
    const auto& signature =
        bundle_.meta_graph_def.signature_def().at("serving_default");
    input_ = signature.inputs().at("ids").name();
    score_ = signature.outputs().at("score").name();
    hidden_ = signature.outputs().at("hidden").name();
  }

  ~Version() {
    if (bundle_.session != nullptr) {
      const auto status = bundle_.session->Close();
      if (!status.ok()) Fail("close " + directory_ + ": " + status.ToString());
    }
  }

  Version(const Version&) = delete;
  Version& operator=(const Version&) = delete;

  const std::string& directory() const { return directory_; }
  size_t index() const { return index_; }

  Tensor Score(const Tensor& ids) const {
    std::vector<Tensor> outputs;
    const auto status =
        bundle_.session->Run({{input_, ids}}, {score_}, {}, &outputs);
    if (!status.ok()) Fail("run " + directory_ + ": " + status.ToString());
    return outputs[0];
  }

  // All outputs of the signature, in another order than the signature's.
  void Both(const Tensor& ids) const {
    std::vector<Tensor> outputs;
    const auto status =
        bundle_.session->Run({{input_, ids}}, {score_, hidden_}, {}, &outputs);
    if (!status.ok()) Fail("run " + directory_ + ": " + status.ToString());
  }

  // The tensors that the graph's own reads of its variables return: they share
  // the variables' buffers.
  std::vector<std::pair<std::string, Tensor>> Variables() const {
    static const std::string kSuffix = "/Read/ReadVariableOp";
    std::vector<std::string> fetches;
    std::vector<std::string> names;
    for (const auto& node : bundle_.meta_graph_def.graph_def().node()) {
      const std::string& name = node.name();
      if (node.op() == "ReadVariableOp" && name.size() > kSuffix.size() &&
          name.compare(name.size() - kSuffix.size(), kSuffix.size(), kSuffix) ==
              0) {
        fetches.push_back(name + ":0");
        names.push_back(name.substr(0, name.size() - kSuffix.size()));
      }
    }
    std::vector<Tensor> outputs;
    const auto status = bundle_.session->Run({}, fetches, {}, &outputs);
    if (!status.ok()) Fail("read " + directory_ + ": " + status.ToString());
    std::vector<std::pair<std::string, Tensor>> variables;
    for (size_t i = 0; i < names.size(); ++i) {
      variables.emplace_back(names[i], outputs[i]);
    }
    return variables;
  }

  // What fetches of the graph's large constants return: the buffers that the
  // constants' kernels hold.
  std::vector<std::pair<std::string, Tensor>> Constants() const {
    std::vector<std::string> names;
    for (const auto& node : bundle_.meta_graph_def.graph_def().node()) {
      if (node.op() == "Const" &&
          node.attr().at("value").tensor().tensor_content().size() >= 4096) {
        names.push_back(node.name());
      }
    }
    std::vector<Tensor> outputs;
    const auto status = bundle_.session->Run({}, names, {}, &outputs);
    if (!status.ok()) Fail("read " + directory_ + ": " + status.ToString());
    std::vector<std::pair<std::string, Tensor>> constants;
    for (size_t i = 0; i < names.size(); ++i) {
      constants.emplace_back(names[i], outputs[i]);
    }
    return constants;
  }

  void PrintConstants() const {
    for (const auto& [name, tensor] : Constants()) {
      PrintTensor("constant", name, "", tensor.data(), tensor.TotalBytes());
    }
  }

  void PrintScore(const Tensor& ids) const {
    const Tensor score = Score(ids);
    PrintTensor("output", score_, "", score.data(), score.TotalBytes());
    PrintBytes("score", score);
  }

  // Runs a request under a full trace; prints every tensor that it made.
  void PrintTracedRequest(const Tensor& ids) const {
    tensorflow::RunOptions options;
    options.set_trace_level(tensorflow::RunOptions::FULL_TRACE);
    std::vector<Tensor> outputs;
    tensorflow::RunMetadata metadata;
    const auto status = bundle_.session->Run(
        options, {{input_, ids}}, {score_, hidden_}, {}, &outputs, &metadata);
    if (!status.ok()) Fail("trace " + directory_ + ": " + status.ToString());
    PrintTensor("input", input_, "", ids.data(), ids.TotalBytes());
    PrintTensor("output", score_, "", outputs[0].data(),
                outputs[0].TotalBytes());
    PrintTensor("output", hidden_, "", outputs[1].data(),
                outputs[1].TotalBytes());
    PrintBytes("score", outputs[0]);
    PrintBytes("hidden", outputs[1]);
    for (const auto& device : metadata.step_stats().dev_stats()) {
      for (const auto& node : device.node_stats()) {
        for (const auto& memory : node.memory()) {
          PrintTensor("allocation", node.node_name(), memory.allocator_name(),
                      nullptr, static_cast<uint64_t>(memory.total_bytes()));
        }
        for (const auto& output : node.output()) {
          const auto& buffer =
              output.tensor_description().allocation_description();
          PrintTensor("intermediate", node.node_name(), buffer.allocator_name(),
                      reinterpret_cast<const void*>(
                          static_cast<uintptr_t>(buffer.ptr())),
                      static_cast<uint64_t>(buffer.requested_bytes()));
        }
      }
    }
  }

  void PrintVariables() const {
    for (const auto& [name, tensor] : Variables()) {
      PrintTensor("variable", name, "", tensor.data(), tensor.TotalBytes());
    }
  }

 private:
  void PrintTensor(const std::string& kind, const std::string& name,
                   const std::string& allocator, const void* data,
                   uint64_t bytes) const {
    std::printf(
        "{\"event\":%s,\"model\":%s,\"name\":%s,\"allocator\":%s,"
        "\"address\":%s,\"bytes\":%s,\"pool\":%s}\n",
        Quoted(kind).c_str(), Quoted(directory_).c_str(), Quoted(name).c_str(),
        Quoted(allocator).c_str(), Number(Address(data)).c_str(),
        Number(bytes).c_str(), Quoted(PoolOf(data)).c_str());
  }

  void PrintBytes(const std::string& name, const Tensor& tensor) const {
    static const char kDigits[] = "0123456789abcdef";
    std::string hex;
    for (const char c : tensor.tensor_data()) {
      hex += kDigits[static_cast<unsigned char>(c) >> 4];
      hex += kDigits[static_cast<unsigned char>(c) & 15];
    }
    std::printf("{\"event\":\"bytes\",\"model\":%s,\"name\":%s,\"hex\":%s}\n",
                Quoted(directory_).c_str(), Quoted(name).c_str(),
                Quoted(hex).c_str());
  }

  const std::string directory_;
  const size_t index_;
  tensorflow::SavedModelBundle bundle_;
  std::string input_;
  std::string score_;
  std::string hidden_;
};

Tensor RequestTensor(const std::vector<int32_t>& requests, size_t index) {
  Tensor ids(tensorflow::DT_INT32, tensorflow::TensorShape({kBatch, kFields}));
  std::memcpy(ids.data(), requests.data() + index * kBatch * kFields,
              kBatch * kFields * sizeof(int32_t));
  return ids;
}

int Isolate(int argc, char** argv) {
  if (argc != 7) Fail("isolate INTRA REQUEST DIR1 DIR2 DIR3");
  const int intra = std::atoi(argv[2]);
  const Tensor ids = RequestTensor(ReadAll<int32_t>(argv[3]), 0);
  auto first = std::make_unique<Version>(argv[4], intra, 0);
  auto second = std::make_unique<Version>(argv[5], intra, 1);
  PrintState("both loaded");
  // Before any request: the first gather from a table makes TensorFlow copy it
  // for every later read.
  first->PrintVariables();
  second->PrintVariables();
  first->PrintTracedRequest(ids);
  second->PrintTracedRequest(ids);
  PrintState("both served");
  first.reset();
  PrintState("first unloaded");
  auto third = std::make_unique<Version>(argv[6], intra, 2);
  PrintState("third loaded");
  third->PrintVariables();
  third->PrintTracedRequest(ids);
  third.reset();
  second.reset();
  PrintState("all unloaded");
  return 0;
}

int Constants(int argc, char** argv) {
  if (argc != 6) Fail("constants REQUEST DIR1 DIR2 DIR3");
  const Tensor ids = RequestTensor(ReadAll<int32_t>(argv[2]), 0);
  std::unique_ptr<Version> versions[3];
  const auto load = [&](size_t i) {
    versions[i] = std::make_unique<Version>(argv[3 + i], 0, i);
    versions[i]->PrintScore(ids);
  };
  load(0);
  PrintState("first served");
  load(1);
  PrintState("both served");
  versions[0].reset();
  PrintState("first unloaded");
  load(2);
  PrintState("third served");
  // Each fetch below makes copies of the constants that it fetches.
  Tensor kept;
  for (size_t i : {1, 2}) {
    versions[i]->PrintConstants();
    kept = versions[i]->Constants().front().second;
    PrintState("constants read");
  }
  versions[1].reset();
  versions[2].reset();
  PrintState("one tensor kept");
  kept = Tensor();
  PrintState("all unloaded");
  return 0;
}

int Swap(int argc, char** argv) {
  if (argc < 8) Fail("swap SWAPS THREADS REQUESTS ANSWERS DIR DIR...");
  const int swaps = std::atoi(argv[2]);
  const int threads = std::atoi(argv[3]);
  const std::vector<int32_t> requests = ReadAll<int32_t>(argv[4]);
  const std::vector<float> answers = ReadAll<float>(argv[5]);
  const std::vector<std::string> directories(argv + 6, argv + argc);
  const size_t num_requests = requests.size() / (kBatch * kFields);
  if (num_requests == 0 ||
      answers.size() != directories.size() * num_requests * kBatch) {
    Fail("answers do not match requests and directories");
  }

  std::mutex mutex;
  std::shared_ptr<const Version> serving =
      std::make_shared<Version>(directories[0], 0, 0);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> served{0};
  std::atomic<uint64_t> wrong{0};
  std::vector<std::thread> requesters;
  for (int thread = 0; thread < threads; ++thread) {
    requesters.emplace_back([&, thread] {
      for (size_t next = static_cast<size_t>(thread); !stop.load(); ++next) {
        std::shared_ptr<const Version> version;
        {
          std::lock_guard<std::mutex> lock(mutex);
          version = serving;
        }
        const size_t request = next % num_requests;
        const Tensor score = version->Score(RequestTensor(requests, request));
        // The version that was asked has to answer: another version's weights
        // in its memory would show here.
        const float* right =
            answers.data() +
            (version->index() * num_requests + request) * kBatch;
        if (score.NumElements() != kBatch ||
            std::memcmp(score.data(), right, kBatch * sizeof(float)) != 0) {
          wrong.fetch_add(1);
        }
        served.fetch_add(1);
      }
    });
  }
  for (int swap = 0; swap < swaps; ++swap) {
    const size_t index = static_cast<size_t>(swap + 1) % directories.size();
    auto next = std::make_shared<Version>(directories[index], 0, index);
    // Requests are served between swaps too, however fast loading is.
    const uint64_t before = served.load();
    std::shared_ptr<const Version> dropped;
    {
      std::lock_guard<std::mutex> lock(mutex);
      dropped = std::move(serving);
      serving = std::move(next);
    }
    // This thread drops it last, so that the unload has ended below.
    while (dropped.use_count() > 1 || served.load() == before) {
      std::this_thread::yield();
    }
    std::atomic_thread_fence(std::memory_order_acquire);
    dropped.reset();
    PrintState("swap " + std::to_string(swap));
  }
  stop.store(true);
  for (auto& requester : requesters) requester.join();
  serving.reset();
  PrintState("all unloaded");
  std::printf("{\"event\":\"served\",\"requests\":%s,\"wrong\":%s}\n",
              Number(served.load()).c_str(), Number(wrong.load()).c_str());
  return 0;
}

uint64_t Digest(const Tensor& tensor) {
  uint64_t digest = 14695981039346656037u;  // FNV-1a
  const auto add = [&digest](const char* bytes, size_t size) {
    for (size_t i = 0; i < size; ++i) {
      digest = (digest ^ static_cast<unsigned char>(bytes[i])) * 1099511628211u;
    }
  };
  if (tensor.dtype() == tensorflow::DT_STRING) {
    const auto strings = tensor.flat<tensorflow::tstring>();
    for (int64_t i = 0; i < strings.size(); ++i) {
      add(strings(i).data(), strings(i).size());
      add("", 1);
    }
  } else {
    add(tensor.tensor_data().data(), tensor.tensor_data().size());
  }
  return digest;
}

// Every variable that the session of a loaded model holds.
void PrintContents(const std::string& directory, tensorflow::Session* session) {
  tensorflow::MetaGraphDef meta_graph;
  auto status = tensorflow::ReadMetaGraphDefFromSavedModel(directory, {"serve"},
                                                           &meta_graph);
  if (!status.ok()) Fail("read " + directory + ": " + status.ToString());
  const tensorflow::DeviceMgr* manager = nullptr;
  status = session->LocalDeviceManager(&manager);
  // A SavedModelBundleLite of TensorFlow 2.15 does not show its devices.
  if (absl::IsUnimplemented(status)) return;
  if (!status.ok()) Fail("devices of " + directory + ": " + status.ToString());
  auto* resources = manager->ListDevices()[0]->resource_manager();
  for (const auto& node : meta_graph.graph_def().node()) {
    if (node.op() != "VarHandleOp") continue;
    const std::string& name = node.attr().at("shared_name").s();
    tensorflow::Var* variable = nullptr;
    if (!resources->Lookup(resources->default_container(), name, &variable)
             .ok()) {
      continue;
    }
    const Tensor tensor = *variable->tensor();
    variable->Unref();
    std::printf(
        "{\"event\":\"content\",\"model\":%s,\"name\":%s,\"dtype\":%s,"
        "\"shape\":%s,\"digest\":\"%s\",\"bytes\":%s,\"pool\":%s}\n",
        Quoted(directory).c_str(), Quoted(name).c_str(),
        Quoted(tensorflow::DataTypeString(tensor.dtype())).c_str(),
        Quoted(tensor.shape().DebugString()).c_str(),
        Number(Digest(tensor)).c_str(), Number(tensor.TotalBytes()).c_str(),
        Quoted(PoolOf(tensor.data())).c_str());
  }
}

int Load(int argc, char** argv) {
  const std::string kind = argc > 2 ? argv[2] : "";
  if (argc < 4 || (kind != "full" && kind != "lite")) {
    Fail("load full|lite DIR...");
  }
  for (int i = 3; i < argc; ++i) {
    const std::string directory = argv[i];
    tensorflow::SavedModelBundle full;
    tensorflow::SavedModelBundleLite lite;
    const auto load = [&](auto* bundle) {
      const auto status = tensorflow::LoadSavedModel(
          tensorflow::SessionOptions(), tensorflow::RunOptions(), directory,
          {"serve"}, bundle);
      std::string totals;
#ifndef WITHOUT_MODEL_POOLS
      const tf_model_pool::LoadTotals now = tf_model_pool::GetLoadTotals();
      totals = ",\"direct_restores\":" + Number(now.direct_restores) +
               ",\"graph_restores\":" + Number(now.graph_restores) +
               ",\"reason\":" + Quoted(now.last_graph_restore_reason);
#endif
      std::printf("{\"event\":\"load\",\"model\":%s,\"status\":%s%s}\n",
                  Quoted(directory).c_str(), Quoted(status.ToString()).c_str(),
                  totals.c_str());
      if (status.ok()) PrintContents(directory, bundle->GetSession());
    };
    if (kind == "full") {
      load(&full);
    } else {
      load(&lite);
    }
  }
  PrintState("loaded");
  return 0;
}

#ifndef WITHOUT_MODEL_POOLS
// The number that `file` of /proc has after `name`; 0 without it.
uint64_t ProcNumber(const std::string& file, const std::string& name) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    if (line.compare(0, name.size(), name) == 0) {
      return std::stoull(line.substr(name.size()));
    }
  }
  return 0;
}

int Pauses(int argc, char** argv) {
  const std::string when = argc == 4 ? argv[2] : "";
  if (when != "alone" && when != "serving") Fail("pauses alone|serving DIR");
  std::unique_ptr<Version> served;
  if (when == "serving") {
    served = std::make_unique<Version>(argv[3], 0, 0);
    Tensor ids(tensorflow::DT_INT32,
               tensorflow::TensorShape({kBatch, kFields}));
    ids.flat<int32_t>().setZero();
    std::thread([&] { served->Score(ids); }).join();
  }
  const auto sleeps = [] {
    return ProcNumber("/proc/thread-self/status", "voluntary_ctxt_switches:");
  };
  const auto reads = [] { return ProcNumber("/proc/self/io", "syscr:"); };
  const uint64_t sleeps_before = sleeps();
  const uint64_t reads_before = reads();
  Version version(argv[3], 0, 1);
  std::printf("{\"event\":\"pauses\",\"sleeps\":%s,\"reads\":%s}\n",
              Number(sleeps() - sleeps_before).c_str(),
              Number(reads() - reads_before).c_str());
  return 0;
}

int Kinds(int argc, char** argv) {
  if (argc != 4) Fail("kinds DIR1 DIR2");
  Tensor ids(tensorflow::DT_INT32, tensorflow::TensorShape({kBatch, kFields}));
  ids.flat<int32_t>().setZero();
  const auto print = [](const char* when) {
    std::printf("{\"event\":\"cold\",\"when\":\"%s\",\"requests\":%s}\n", when,
                Number(tf_model_pool::GetLoadTotals().cold_versions).c_str());
  };
  std::vector<std::unique_ptr<Version>> versions;
  for (int i = 2; i < 4; ++i) {
    versions.push_back(std::make_unique<Version>(argv[i], 0, i));
    print("loaded");
    std::thread([&] { versions.back()->Both(ids); }).join();
    print("whole");
    std::thread([&] { versions.back()->Score(ids); }).join();
    print("part");
    std::thread([&] { versions.back()->Score(ids); }).join();
    print("part again");
  }
  return 0;
}

int Names(int argc, char** argv) {
  if (argc != 4) Fail("names SESSIONS DIR");
  const int sessions = std::atoi(argv[2]);
  const auto load = [&](int i, tensorflow::SavedModelBundle* bundle) {
    tensorflow::SessionOptions options;
    auto* metadata =
        options.config.mutable_experimental()->mutable_session_metadata();
    metadata->set_name("model" + std::to_string(i));
    metadata->set_version(1);
    return tensorflow::LoadSavedModel(options, tensorflow::RunOptions(),
                                      argv[3], {"serve"}, bundle);
  };
  std::vector<tensorflow::SavedModelBundle> bundles(sessions);
  for (int i = 0; i < sessions; ++i) {
    const auto status = load(i, &bundles[i]);
    if (!status.ok()) Fail(status.ToString());
  }
  const auto& signature =
      bundles[0].meta_graph_def.signature_def().at("serving_default");
  Tensor ids(tensorflow::DT_INT32, tensorflow::TensorShape({kBatch, kFields}));
  ids.flat<int32_t>().setZero();
  std::thread([&] {
    std::vector<Tensor> outputs;
    const auto status = bundles[0].session->Run(
        {{signature.inputs().at("ids").name(), ids}},
        {signature.outputs().at("score").name()}, {}, &outputs);
    if (!status.ok()) Fail(status.ToString());
  }).join();
  bundles.clear();
  tensorflow::SavedModelBundle again;
  std::printf("{\"event\":\"again\",\"status\":%s}\n",
              Quoted(load(sessions - 1, &again).ToString()).c_str());
  return 0;
}

int Visit(int argc, char** argv) {
  if (argc != 3) Fail("visit DIR");
  auto* process = tensorflow::ProcessState::singleton();
  const auto print = [](const char* event) {
    return [event](void* address, int, size_t bytes) {
      std::printf("{\"event\":\"%s\",\"address\":%s,\"bytes\":%s}\n", event,
                  Number(Address(address)).c_str(), Number(bytes).c_str());
    };
  };
  process->AddCPUAllocVisitor(print("registered"));
  process->AddCPUFreeVisitor(print("unregistered"));
  auto version = std::make_unique<Version>(argv[2], 0, 0);
  version->PrintVariables();
  version.reset();
  PrintState("unloaded");
  process->TrimModelPools();
  PrintState("trimmed");
  return 0;
}

// What TensorFlow's monitoring registry has of the pools now, a line for each
// metric, as an exporter such as TensorFlow Serving's reads it.
void PrintMetrics(const std::string& when) {
  static const std::string kPrefix = "/tensorflow/core/model_pool/";
  namespace monitoring = tensorflow::monitoring;
  const auto collected =
      monitoring::CollectionRegistry::Default()->CollectMetrics({});
  for (const auto& [name, descriptor] : collected->metric_descriptor_map) {
    if (name.compare(0, kPrefix.size(), kPrefix) != 0) continue;
    std::string line = "{\"event\":\"metric\",\"when\":" + Quoted(when) +
                       ",\"name\":" + Quoted(name.substr(kPrefix.size())) +
                       ",\"kind\":";
    line += descriptor->metric_kind == monitoring::MetricKind::kGauge
                ? "\"gauge\""
                : "\"counter\"";
    line += ",\"points\":[";
    bool first = true;
    for (const auto& point : collected->point_set_map.at(name)->points) {
      if (point->value_type != monitoring::ValueType::kInt64) {
        Fail(name + " is no int64");
      }
      if (!first) line += ',';
      first = false;
      line +=
          "{\"value\":" + std::to_string(point->int64_value) + ",\"labels\":{";
      for (size_t i = 0; i < point->labels.size(); ++i) {
        if (i > 0) line += ',';
        line += Quoted(point->labels[i].name) + ":" +
                Quoted(point->labels[i].value);
      }
      line += "}}";
    }
    std::printf("%s]}\n", line.c_str());
  }
}

int Status(int argc, char** argv) {
  if (argc != 3) Fail("status DIR");
  if (dlsym(RTLD_DEFAULT, "dladdr") != reinterpret_cast<void*>(&dladdr)) {
    Fail("the library does not call this program's dladdr");
  }
  const Version version(argv[2], 0, 0);
  const auto ask = [] {
    const tf_model_pool::Status status = tf_model_pool::GetStatus();
    if (!status.active()) Fail("not active: " + status.reason);
  };
  ask();
  const int after_first = symbol_searches;
  for (int i = 0; i < 100; ++i) ask();
  std::printf("{\"event\":\"status\",\"searches\":%d}\n",
              symbol_searches - after_first);
  return 0;
}

int Metrics(int argc, char** argv) {
  if (argc != 5) Fail("metrics DIR1 DIR2 DIR3");
  const auto print = [](const std::string& when) {
    PrintState(when);
    PrintMetrics(when);
  };
  print("before any load");
  auto first = std::make_unique<Version>(argv[2], 0, 0);
  print("first loaded");
  auto second = std::make_unique<Version>(argv[3], 0, 1);
  first.reset();
  print("first unloaded");
  auto third = std::make_unique<Version>(argv[4], 0, 2);
  print("third loaded");
  second.reset();
  third.reset();
  print("all unloaded");
  tensorflow::ProcessState::singleton()->TrimModelPools();
  print("trimmed");
  return 0;
}
#endif

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "isolate") return Isolate(argc, argv);
  if (command == "constants") return Constants(argc, argv);
  if (command == "swap") return Swap(argc, argv);
#ifndef WITHOUT_MODEL_POOLS
  if (command == "visit") return Visit(argc, argv);
  if (command == "metrics") return Metrics(argc, argv);
  if (command == "pauses") return Pauses(argc, argv);
  if (command == "kinds") return Kinds(argc, argv);
  if (command == "status") return Status(argc, argv);
#endif
  if (command == "load") return Load(argc, argv);
  if (command == "names") return Names(argc, argv);
  Fail(
      "expected isolate, constants, swap, visit, metrics, load, names, pauses, "
      "kinds or status");
}
