// SPDX-License-Identifier: Apache-2.0
//
// Serves one version of each model and replaces it by the next, in the way of
// TensorFlow Serving's AspiredVersionsManager and BasicManager:
// - A manager thread decides; loads run on num_load_threads threads, unloads on
//   num_unload_threads, 0 meaning the manager's thread.
// - Availability preserving: load, warm up, switch, wait for the requests in
//   flight, unload the old version. Resource preserving: the old version goes
//   first, and requests find none meanwhile.
// - Unlike there the manager acts at once and not every 100 ms, and an update
//   of a model waits until its update before has ended.

#ifndef TF_ALLOCATOR_BENCH_VERSION_MANAGER_H_
#define TF_ALLOCATOR_BENCH_VERSION_MANAGER_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tf_allocator/bench/config.h"
#include "tf_allocator/bench/phase_recorder.h"
#include "tf_allocator/bench/pool_probe.h"
#include "tf_allocator/bench/run_log.h"

namespace tf_model_pool {
namespace bench {

// One version of a model. Its destructor unloads it.
class ModelVersion {
 public:
  virtual ~ModelVersion() = default;
  // Goes through the phases import to warm_up. Returns "" or what went wrong.
  virtual std::string Load(PhaseRecorder* recorder) = 0;
  // Answers the model's request `number`; several threads at once. Calls
  // `answered` when the answer is there, and adds it up after that. Returns 0
  // or an absl::StatusCode.
  virtual int Run(int32_t number, const std::function<void()>& answered,
                  double* checksum) = 0;
};

// Runs tasks in order of arrival on threads of its own, or, if there are
// none, in Schedule.
class Executor {
 public:
  explicit Executor(int num_threads);
  ~Executor();  // after all tasks have run
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;
  void Schedule(std::function<void()> task);

 private:
  void Work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

// Thread-safe.
class VersionManager {
 private:
  struct Slot;

 public:
  using Factory =
      std::function<std::unique_ptr<ModelVersion>(int model, int version)>;

  // A version in use: it is not unloaded while a lease on it lives.
  class Lease {
   public:
    explicit Lease(std::shared_ptr<Slot> slot) : slot_(std::move(slot)) {}
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ModelVersion* version() const;
    int index() const;

   private:
    const std::shared_ptr<Slot> slot_;
  };

  // `config`, `gate` and `log` outlive this.
  VersionManager(const Config* config, Factory factory, StallGate* gate,
                 RunLog* log, PoolProbe probe);
  // Waits for updates that run, then unloads all.
  ~VersionManager();
  VersionManager(const VersionManager&) = delete;
  VersionManager& operator=(const VersionManager&) = delete;

  // Loads every model's first version on the calling thread. Returns "" or
  // what went wrong. `stop` is asked before each.
  std::string LoadFirst(const std::function<bool()>& stop);

  // Starts the manager's thread; `zero_ns` is the log's zero.
  void Start(int64_t zero_ns);

  // Asks for the next version of these models. The first of them makes the
  // stalls.
  void Update(const std::vector<int>& models,
              const std::vector<PlannedStall>& stalls);

  // The version that is served now; nullptr if there is none.
  std::shared_ptr<const Lease> Serving(int model) const;

  // True if no update runs or waits.
  bool Idle() const;

  // Tells the updates that run how much memory the process has now.
  void NoteResident(int64_t bytes);

 private:
  struct Slot {
    std::unique_ptr<ModelVersion> version;
    int index = 0;
    std::mutex mutex;
    std::condition_variable changed;
    bool drained = false;
  };
  struct UpdateState {
    UpdateRecord record;
    ProcessCounters process;
    int64_t pool_mappings = 0;
    std::unique_ptr<PhaseRecorder> recorder;
    std::shared_ptr<Slot> next;
  };
  struct Model {
    int version = 0;  // the one that is or was served last
    std::shared_ptr<Slot> slot;
    std::shared_ptr<const Lease> serving;  // by std::atomic_load and _store
    std::deque<std::vector<PlannedStall>> waiting;
    std::unique_ptr<UpdateState> update;  // nullptr = none runs
  };

  void Post(std::function<void()> event);
  void Manage();
  // These run on the manager's thread ...
  void Begin(int model);
  void ScheduleLoad(int model);
  void ScheduleUnload(int model, std::shared_ptr<Slot> slot, int version,
                      std::function<void()> after);
  void Finish(int model);
  // ... and these on the threads that load and unload.
  bool Load(int model);
  void Unload(int model, std::shared_ptr<Slot> slot, int version);
  void Serve(Model* model, std::shared_ptr<Slot> slot);

  const Config& config_;
  const Factory factory_;
  StallGate* const gate_;
  RunLog* const log_;
  const PoolProbe probe_;
  int64_t zero_ns_ = 0;
  std::vector<Model> models_;

  mutable std::mutex mutex_;  // events_, open_, ending_, waiting, peaks
  std::condition_variable changed_;
  std::deque<std::function<void()>> events_;
  int open_ = 0;  // updates asked for and not ended
  bool ending_ = false;
  std::thread manager_;
  // Last, so that they end first: their tasks post events.
  std::unique_ptr<Executor> load_executor_;
  std::unique_ptr<Executor> unload_executor_;
};

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_VERSION_MANAGER_H_
