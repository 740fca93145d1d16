// SPDX-License-Identifier: Apache-2.0
//
// Loads SavedModels with C++ LoadSavedModel in ways in which a load could do
// harm, and prints what came of it, one JSON object a line. Names nothing of
// the pools, so the released TensorFlow runs it too.
// tests/integration/test_no_harm.py builds and reads it.
//
//   harm_probe threads DIR
//     loads DIR, runs its default signature on the loading thread and on
//     another one, loads and runs it again while a thread requests, and prints
//     how every thread of the process is scheduled.
//   harm_probe static DIR
//     loads and runs DIR, and leaves the model to static destructors.
//   harm_probe limit BYTES DIR
//     loads DIR with that much address space left; prints how it ended.
//   harm_probe fork DIR
//     loads and runs DIR, forks, loads and runs it in the child.
//   harm_probe kernels DIR
//     writes a model of an op of the probe's own into DIR, loads it on a thread
//     with one CPU while nothing serves and while another thread requests, and
//     prints on which threads kernels were made, run and ended.
//   harm_probe many COPIES ROUNDS DIR
//     holds COPIES copies of DIR as models of their own, and loads each again
//     in turn, ROUNDS times, before it drops the copy before; prints memory.
//   harm_probe space DIR
//     as `many 10 0`, and prints how much memory malloc can still get.
//   harm_probe updates REQUESTS DIR
//     serves DIR at 100 requests a second, about a third of a CPU: REQUESTS
//     alone, those during a first update, which needs new memory, and REQUESTS
//     while it is loaded again and again; prints the throttled periods of the
//     control group and the latencies (p50, p99, p99.9, largest) of each part.
//   harm_probe calls N DIR
//     runs DIR's default signature N times and its callable as often, on one
//     thread, and prints the median of each, microseconds. For
//     docs/results/.
//
//   harm_probe time BUSY LOADS alone|serving DIR
//     loads DIR LOADS times beside BUSY threads that never rest and, if
//     serving, after a request; prints how long loading and dropping took, and
//     with BUSY 0 and MLOCK set, how long another thread waited for an mmap.
//     For docs/results/: no test asserts on it.
//
// Requests are zeros of the signature's types; unknown dimensions are 8.

#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/protobuf/saved_model.pb.h"
#include "tensorflow/core/public/session.h"
#include "tensorflow/core/public/session_options.h"

namespace {

namespace fs = std::filesystem;
using tensorflow::Tensor;

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "harm_probe: %s\n", what.c_str());
  std::exit(1);
}

class Model {
 public:
  explicit Model(const std::string& directory, bool own_threads = false) {
    tensorflow::SessionOptions options;
    options.config.set_use_per_session_threads(own_threads);
    const auto status = tensorflow::LoadSavedModel(
        options, tensorflow::RunOptions(), directory, {"serve"}, &bundle_);
    if (!status.ok()) Fail(directory + ": " + status.ToString());
    const auto& signature =
        bundle_.meta_graph_def.signature_def().at("serving_default");
    for (const auto& [key, info] : signature.inputs()) {
      tensorflow::TensorShape shape;
      for (const auto& dim : info.tensor_shape().dim()) {
        shape.AddDim(dim.size() < 0 ? 8 : dim.size());
      }
      Tensor zeros(info.dtype(), shape);
      if (zeros.TotalBytes() > 0) {
        std::memset(zeros.data(), 0, zeros.TotalBytes());
      }
      inputs_.emplace_back(info.name(), zeros);
    }
    for (const auto& [key, info] : signature.outputs()) {
      outputs_.push_back(info.name());
    }
  }

  std::vector<Tensor> Run() {
    std::vector<Tensor> outputs;
    const auto status = bundle_.session->Run(inputs_, outputs_, {}, &outputs);
    if (!status.ok()) Fail("run: " + status.ToString());
    return outputs;
  }

  // The same by a callable, which is made in the first call.
  std::vector<Tensor> RunCallable() {
    if (!made_) {
      tensorflow::CallableOptions options;
      for (const auto& [name, tensor] : inputs_) {
        options.add_feed(name);
        feeds_.push_back(tensor);
      }
      for (const auto& name : outputs_) options.add_fetch(name);
      const auto status = bundle_.session->MakeCallable(options, &callable_);
      if (!status.ok()) Fail("callable: " + status.ToString());
      made_ = true;
    }
    std::vector<Tensor> outputs;
    const auto status =
        bundle_.session->RunCallable(callable_, feeds_, &outputs, nullptr);
    if (!status.ok()) Fail("callable: " + status.ToString());
    return outputs;
  }

 private:
  tensorflow::SavedModelBundle bundle_;
  std::vector<std::pair<std::string, Tensor>> inputs_;
  std::vector<std::string> outputs_;
  std::vector<Tensor> feeds_;
  tensorflow::Session::CallableHandle callable_ = 0;
  bool made_ = false;
};

// Asks again and again, on a thread of its own, as long as it lives.
class Requests {
 public:
  explicit Requests(Model* model)
      : thread_([this, model] {
          while (!done_.load()) {
            model->Run();
            asked_.store(true);
          }
        }) {
    while (!asked_.load()) std::this_thread::yield();
  }
  ~Requests() {
    done_.store(true);
    thread_.join();
  }

 private:
  std::atomic<bool> done_{false};
  std::atomic<bool> asked_{false};
  std::thread thread_;
};

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

int Threads(const std::string& directory) {
  Model model(directory);
  model.Run();
  std::thread([&] { model.Run(); }).join();
  {
    Requests requests(&model);
    Model next(directory);
    next.Run();
    std::thread([&] { next.Run(); }).join();
  }
  for (const auto& entry : fs::directory_iterator("/proc/self/task")) {
    const auto thread = std::stoi(entry.path().filename());
    const int policy = sched_getscheduler(thread);
    if (policy < 0) continue;  // it has just ended
    std::printf(
        "{\"event\":\"thread\",\"name\":\"%s\",\"policy\":%d,\"nice\":%d}\n",
        FirstLine(entry.path() / "comm").c_str(), policy,
        getpriority(PRIO_PROCESS, static_cast<id_t>(thread)));
  }
  return 0;
}

uint64_t AddressSpace() {
  std::ifstream file("/proc/self/statm");
  uint64_t pages = 0;
  file >> pages;
  return pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

// Static destructors end it, beside threads that are still there.
int Static(const std::string& directory) {
  static std::unique_ptr<Model> model;
  model = std::make_unique<Model>(directory);
  model->Run();
  Model(directory).Run();
  std::printf("{\"event\":\"static\"}\n");
  return 0;
}

int Limit(uint64_t bytes, const std::string& directory) {
  // What the first load of a process takes is there already.
  {
    Model warm(directory);
  }
  rlimit limit{};
  limit.rlim_cur = limit.rlim_max = AddressSpace() + bytes;
  if (setrlimit(RLIMIT_AS, &limit) != 0) Fail("setrlimit");
  const char* how = "loaded";
  try {
    std::vector<std::unique_ptr<Model>> models;
    for (int i = 0; i < 64; ++i) {
      models.push_back(std::make_unique<Model>(directory));
    }
  } catch (const std::bad_alloc&) {
    how = "bad_alloc";
  }
  std::printf("{\"event\":\"limit\",\"how\":\"%s\"}\n", how);
  return 0;
}

int Fork(const std::string& directory) {
  Model model(directory, /*own_threads=*/true);
  model.Run();
  {
    // And a load of the kind that gives way.
    Requests requests(&model);
    Model next(directory, /*own_threads=*/true);
    next.Run();
  }
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    alarm(120);
    Model again(directory, /*own_threads=*/true);
    again.Run();
    Model next(directory, /*own_threads=*/true);
    next.Run();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  std::printf("{\"event\":\"fork\",\"child\":%d}\n",
              WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
  return 0;
}

void PrintKernel(const char* what) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  sched_getaffinity(0, sizeof(cpus), &cpus);
  const auto thread = static_cast<int>(syscall(SYS_gettid));
  std::printf(
      "{\"event\":\"kernel\",\"what\":\"%s\",\"thread\":%d,\"policy\":%d,"
      "\"nice\":%d,\"cpus\":%d}\n",
      what, thread, sched_getscheduler(0),
      getpriority(PRIO_PROCESS, static_cast<id_t>(thread)), CPU_COUNT(&cpus));
}

REGISTER_OP("HarmProbe")
    .Input("x: int64")
    .Output("y: int64")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape);

class HarmProbeOp : public tensorflow::OpKernel {
 public:
  explicit HarmProbeOp(tensorflow::OpKernelConstruction* context)
      : OpKernel(context) {
    PrintKernel("made");
  }
  ~HarmProbeOp() override { PrintKernel("ended"); }
  void Compute(tensorflow::OpKernelContext* context) override {
    context->set_output(0, context->input(0));
    if (print_run_.exchange(false)) PrintKernel("run");
  }

 private:
  std::atomic<bool> print_run_{true};
};

REGISTER_KERNEL_BUILDER(Name("HarmProbe").Device(tensorflow::DEVICE_CPU),
                        HarmProbeOp);

void WriteModel(const std::string& directory) {
  tensorflow::SavedModel model;
  model.set_saved_model_schema_version(1);
  tensorflow::MetaGraphDef* meta_graph = model.add_meta_graphs();
  meta_graph->mutable_meta_info_def()->add_tags("serve");
  tensorflow::NodeDef* x = meta_graph->mutable_graph_def()->add_node();
  x->set_name("x");
  x->set_op("Placeholder");
  (*x->mutable_attr())["dtype"].set_type(tensorflow::DT_INT64);
  tensorflow::NodeDef* y = meta_graph->mutable_graph_def()->add_node();
  y->set_name("y");
  y->set_op("HarmProbe");
  y->add_input("x");
  auto& signature = (*meta_graph->mutable_signature_def())["serving_default"];
  const auto fill = [](tensorflow::TensorInfo* info, const char* name) {
    info->set_name(name);
    info->set_dtype(tensorflow::DT_INT64);
    info->mutable_tensor_shape()->add_dim()->set_size(-1);
  };
  fill(&(*signature.mutable_inputs())["x"], "x:0");
  fill(&(*signature.mutable_outputs())["y"], "y:0");
  std::ofstream file(directory + "/saved_model.pb", std::ios::binary);
  if (!model.SerializeToOstream(&file) || !file.flush()) {
    Fail("cannot write to " + directory);
  }
}

int Kernels(const std::string& directory) {
  WriteModel(directory);
  const auto say = [](const char* when) {
    std::printf("{\"event\":\"step\",\"when\":\"%s\",\"thread\":%d}\n", when,
                static_cast<int>(syscall(SYS_gettid)));
  };
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0; CPU_COUNT(&one) == 0; ++cpu) {
    cpu_set_t all;
    sched_getaffinity(0, sizeof(all), &all);
    if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
  }
  const auto load_on_one_cpu = [&] {
    std::unique_ptr<Model> model;
    std::thread([&] {
      sched_setaffinity(0, sizeof(one), &one);
      say("load");
      model = std::make_unique<Model>(directory);
      say("loaded");
    }).join();
    return model;
  };
  std::unique_ptr<Model> model = load_on_one_cpu();
  say("first run");
  model->Run();
  say("served");
  {
    Requests requests(model.get());
    std::unique_ptr<Model> next = load_on_one_cpu();
    next->Run();
    std::thread([&] {
      say("drop");
      next.reset();
      say("dropped");
    }).join();
  }
  say("end");
  return 0;
}

uint64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t size = 0;
  uint64_t resident = 0;
  file >> size >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

// Hard links: models of their own that take no room on disk.
std::string Copy(const std::string& directory, int model, int version) {
  const fs::path root =
      fs::path(directory).parent_path().parent_path() / "copies";
  const fs::path to =
      root / ("m" + std::to_string(model)) / std::to_string(version);
  if (fs::exists(to)) return to;
  fs::create_directories(to.parent_path());
  fs::copy(directory, to,
           fs::copy_options::recursive | fs::copy_options::create_hard_links);
  return to;
}

int Many(int copies, int rounds, const std::string& directory) {
  std::vector<std::unique_ptr<Model>> models(static_cast<size_t>(copies));
  const auto print = [&](const char* when) {
    std::printf("{\"event\":\"memory\",\"when\":\"%s\",\"resident\":%llu}\n",
                when, static_cast<unsigned long long>(ResidentBytes()));
    std::fflush(stdout);
  };
  print("begin");
  for (int version = 1; version <= rounds + 1; ++version) {
    for (int i = 0; i < copies; ++i) {
      auto next = std::make_unique<Model>(Copy(directory, i, version));
      next->Run();
      models[static_cast<size_t>(i)] = std::move(next);
    }
    print(version == 1 ? "loaded" : "updated");
  }
  return 0;
}

int Space(const std::string& directory) {
  std::vector<std::unique_ptr<Model>> models;
  for (int i = 0; i < 10; ++i) {
    models.push_back(std::make_unique<Model>(Copy(directory, i, 1)));
  }
  constexpr size_t kBlock = size_t{64} << 20;
  uint64_t bytes = 0;
  while (bytes < (uint64_t{1} << 40) && std::malloc(kBlock) != nullptr) {
    bytes += kBlock;
  }
  std::printf("{\"event\":\"space\",\"bytes\":%llu}\n",
              static_cast<unsigned long long>(bytes));
  return 0;
}

double SecondsOf(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
      .count();
}

int Time(int busy, int loads, bool serving, const std::string& directory) {
  const bool lock = std::getenv("MLOCK") != nullptr;
  if (lock && mlockall(MCL_FUTURE) != 0) Fail("mlockall");
  Model first(directory);
  std::atomic<bool> done{false};
  std::atomic<double> longest{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < busy; ++i) {
    threads.emplace_back([&] {
      while (!done.load(std::memory_order_relaxed)) {
      }
    });
  }
  if (lock) {
    threads.emplace_back([&] {
      constexpr size_t kBytes = size_t{64} << 10;
      while (!done.load()) {
        void* mapped = nullptr;
        const double took = SecondsOf([&] {
          mapped = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        });
        if (took > longest.load()) longest.store(took);
        munmap(mapped, kBytes);
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    });
  }
  for (int i = 0; i < loads; ++i) {
    if (serving) first.Run();
    std::unique_ptr<Model> model;
    const double load =
        SecondsOf([&] { model = std::make_unique<Model>(directory); });
    if (serving) model->Run();
    const double drop = SecondsOf([&] { model.reset(); });
    std::printf(
        "{\"event\":\"time\",\"load_s\":%.4f,\"drop_s\":%.4f,"
        "\"longest_mmap_s\":%.4f}\n",
        load, drop, longest.exchange(0));
  }
  done.store(true);
  for (std::thread& thread : threads) thread.join();
  return 0;
}

// Of the control group whose cpu.stat is HARM_PROBE_CPU_STAT.
int64_t ThrottledPeriods() {
  const char* path = std::getenv("HARM_PROBE_CPU_STAT");
  std::ifstream file(path == nullptr ? "" : path);
  std::string name;
  int64_t value = 0;
  while (file >> name >> value) {
    if (name == "nr_throttled") return value;
  }
  Fail("HARM_PROBE_CPU_STAT has no nr_throttled");
}

// A hundred requests a second, on a thread of its own, open loop.
class Server {
 public:
  explicit Server(const std::string& directory)
      : model_(std::make_shared<Model>(directory)),
        thread_([this] { Serve(); }) {}
  ~Server() {
    done_.store(true);
    thread_.join();
  }

  void Switch(std::shared_ptr<Model> model) {
    const std::lock_guard<std::mutex> lock(mu_);
    model_.swap(model);
  }

  // Returns when there were `count` answers in all.
  void WaitFor(size_t count) {
    std::unique_lock<std::mutex> lock(mu_);
    answered_.wait(lock, [&] { return latencies_.size() >= count; });
  }
  size_t answers() {
    const std::lock_guard<std::mutex> lock(mu_);
    return latencies_.size();
  }
  // The latency that `share` of the answers from `begin` to `end` did not
  // exceed, in ms.
  double Percentile(size_t begin, size_t end, double share) {
    const std::lock_guard<std::mutex> lock(mu_);
    std::vector<double> some(latencies_.begin() + begin,
                             latencies_.begin() + end);
    std::sort(some.begin(), some.end());
    return some[static_cast<size_t>(share *
                                    static_cast<double>(some.size() - 1))];
  }

 private:
  using Clock = std::chrono::steady_clock;

  void Serve() {
    auto due = Clock::now();
    while (!done_.load()) {
      due += std::chrono::milliseconds(10);
      std::this_thread::sleep_until(due);
      std::shared_ptr<Model> current;
      {
        const std::lock_guard<std::mutex> lock(mu_);
        current = model_;
      }
      current->Run();
      current.reset();
      UseCpu();
      const std::chrono::duration<double, std::milli> took = Clock::now() - due;
      const std::lock_guard<std::mutex> lock(mu_);
      latencies_.push_back(took.count());
      answered_.notify_all();
    }
  }

  // What makes a request a larger one: 2.8 ms.
  static void UseCpu() {
    timespec now{};
    const auto cpu_us = [&now] {
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
      return now.tv_sec * 1'000'000 + now.tv_nsec / 1000;
    };
    const auto end = cpu_us() + 2800;
    while (cpu_us() < end) {
    }
  }

  std::atomic<bool> done_{false};
  std::mutex mu_;
  std::condition_variable answered_;
  std::shared_ptr<Model> model_;
  std::vector<double> latencies_;
  std::thread thread_;
};

int Updates(size_t requests, const std::string& directory) {
  constexpr size_t kSettle = 50;
  Server server(directory);
  server.WaitFor(kSettle);
  size_t answers = server.answers();
  int64_t throttled = ThrottledPeriods();
  // From the last call to this one.
  const auto print = [&](const char* part, int updates) {
    const size_t end = server.answers();
    const int64_t now = ThrottledPeriods();
    std::printf(
        "{\"event\":\"%s\",\"updates\":%d,\"throttled\":%lld,"
        "\"ms\":[%.1f,%.1f,%.1f,%.1f]}\n",
        part, updates, static_cast<long long>(now - throttled),
        server.Percentile(answers, end, 0.5),
        server.Percentile(answers, end, 0.99),
        server.Percentile(answers, end, 0.999),
        server.Percentile(answers, end, 1));
    answers = end;
    throttled = now;
  };
  const auto update = [&] {
    auto next = std::make_shared<Model>(directory);
    next->Run();
    server.Switch(std::move(next));
  };
  server.WaitFor(answers + requests);
  print("steady", 0);
  update();
  print("first update", 1);
  int updates = 0;
  for (const size_t end = answers + requests; server.answers() < end;
       ++updates) {
    update();
  }
  print("updates", updates);
  return 0;
}

double MedianUs(int count, const std::function<void()>& call) {
  std::vector<double> times;
  for (int i = 0; i < count; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    call();
    const std::chrono::duration<double, std::micro> passed =
        std::chrono::steady_clock::now() - begin;
    times.push_back(passed.count());
  }
  std::nth_element(times.begin(), times.begin() + count / 2, times.end());
  return times[count / 2];
}

int Calls(int count, const std::string& directory) {
  Model model(directory);
  const double run = MedianUs(count, [&] { model.Run(); });
  const double callable = MedianUs(count, [&] { model.RunCallable(); });
  std::printf("{\"run_us\": %.1f, \"callable_us\": %.1f}\n", run, callable);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "threads" && argc == 3) return Threads(argv[2]);
  if (command == "static" && argc == 3) return Static(argv[2]);
  if (command == "limit" && argc == 4) {
    return Limit(std::stoull(argv[2]), argv[3]);
  }
  if (command == "fork" && argc == 3) return Fork(argv[2]);
  if (command == "kernels" && argc == 3) return Kernels(argv[2]);
  if (command == "many" && argc == 5) {
    return Many(std::stoi(argv[2]), std::stoi(argv[3]), argv[4]);
  }
  if (command == "space" && argc == 3) return Space(argv[2]);
  if (command == "updates" && argc == 4) {
    return Updates(std::stoull(argv[2]), argv[3]);
  }
  if (command == "calls" && argc == 4) {
    return Calls(std::stoi(argv[2]), argv[3]);
  }
  if (command == "time" && argc == 6) {
    return Time(std::stoi(argv[2]), std::stoi(argv[3]),
                std::strcmp(argv[4], "serving") == 0, argv[5]);
  }
  Fail(
      "expected threads, static, limit, fork, kernels, many, space, updates, "
      "calls or time");
}
