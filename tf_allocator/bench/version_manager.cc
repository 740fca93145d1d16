// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/version_manager.h"

#include <algorithm>
#include <utility>

namespace tf_model_pool {
namespace bench {

// ---- Executor ---------------------------------------------------------------

Executor::Executor(int num_threads) {
  for (int i = 0; i < num_threads; ++i) {
    threads_.emplace_back([this] { Work(); });
  }
}

Executor::~Executor() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void Executor::Schedule(std::function<void()> task) {
  if (threads_.empty()) return task();
  std::lock_guard<std::mutex> lock(mutex_);
  tasks_.push_back(std::move(task));
  changed_.notify_one();
}

void Executor::Work() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    const std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
}

// ---- Lease ------------------------------------------------------------------

VersionManager::Lease::~Lease() {
  std::lock_guard<std::mutex> lock(slot_->mutex);
  slot_->drained = true;
  slot_->changed.notify_all();
}

ModelVersion* VersionManager::Lease::version() const {
  return slot_->version.get();
}

int VersionManager::Lease::index() const { return slot_->index; }

// ---- VersionManager ---------------------------------------------------------

VersionManager::VersionManager(const Config* config, Factory factory,
                               StallGate* gate, RunLog* log, PoolProbe probe)
    : config_(*config),
      factory_(std::move(factory)),
      gate_(gate),
      log_(log),
      probe_(std::move(probe)),
      models_(config->models.size()),
      load_executor_(
          std::make_unique<Executor>(config->server.num_load_threads)),
      unload_executor_(
          std::make_unique<Executor>(config->server.num_unload_threads)) {}

VersionManager::~VersionManager() {
  if (manager_.joinable()) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
      changed_.notify_all();
    }
    manager_.join();
  }
  load_executor_.reset();
  unload_executor_.reset();
}

std::string VersionManager::LoadFirst(const std::function<bool()>& stop) {
  PhaseRecorder unrecorded;
  for (size_t i = 0; i < models_.size(); ++i) {
    if (stop()) return "stopped";
    auto slot = std::make_shared<Slot>();
    slot->version = factory_(static_cast<int>(i), 0);
    const std::string error = slot->version->Load(&unrecorded);
    if (!error.empty()) return config_.models[i].name + "/0: " + error;
    Serve(&models_[i], std::move(slot));
  }
  return "";
}

void VersionManager::Start(int64_t zero_ns) {
  zero_ns_ = zero_ns;
  manager_ = std::thread([this] { Manage(); });
}

void VersionManager::Update(const std::vector<int>& models,
                            const std::vector<PlannedStall>& stalls) {
  for (size_t i = 0; i < models.size(); ++i) {
    const int model = models[i];
    const std::vector<PlannedStall> mine =
        i == 0 ? stalls : std::vector<PlannedStall>();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++open_;
    }
    Post([this, model, mine] {
      models_[static_cast<size_t>(model)].waiting.push_back(mine);
      Begin(model);
    });
  }
}

std::shared_ptr<const VersionManager::Lease> VersionManager::Serving(
    int model) const {
  return std::atomic_load(&models_[static_cast<size_t>(model)].serving);
}

bool VersionManager::Idle() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return open_ == 0;
}

void VersionManager::NoteResident(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (Model& model : models_) {
    if (model.update == nullptr) continue;
    UpdateRecord& record = model.update->record;
    record.rss_peak = std::max(record.rss_peak, bytes);
  }
}

void VersionManager::Post(std::function<void()> event) {
  std::lock_guard<std::mutex> lock(mutex_);
  events_.push_back(std::move(event));
  changed_.notify_all();
}

void VersionManager::Manage() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(
        lock, [this] { return !events_.empty() || (ending_ && open_ == 0); });
    if (events_.empty()) return;
    const std::function<void()> event = std::move(events_.front());
    events_.pop_front();
    lock.unlock();
    event();
    lock.lock();
  }
}

void VersionManager::Begin(int index) {
  Model& model = models_[static_cast<size_t>(index)];
  if (model.update != nullptr || model.waiting.empty()) return;
  auto update = std::make_unique<UpdateState>();
  UpdateRecord& record = update->record;
  record.model = index;
  record.from = model.version;
  record.to = (model.version + 1) %
              static_cast<int>(
                  config_.models[static_cast<size_t>(index)].versions.size());
  record.begin_ns = MonotonicNs() - zero_ns_;
  record.rss_before = ReadResidentBytes();
  record.rss_peak = record.rss_before;
  update->process = ReadProcessCounters();
  update->pool_mappings = probe_.Mappings();
  update->recorder = std::make_unique<PhaseRecorder>(
      index, zero_ns_, gate_, log_, std::move(model.waiting.front()));
  model.waiting.pop_front();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    model.update = std::move(update);
  }
  if (config_.server.aspired_version_policy ==
          VersionPolicy::kResourcePreserving &&
      model.slot != nullptr) {
    std::shared_ptr<Slot> old = std::move(model.slot);
    model.slot = nullptr;
    std::atomic_store(&model.serving, std::shared_ptr<const Lease>());
    ScheduleUnload(index, std::move(old), record.from,
                   [this, index] { ScheduleLoad(index); });
  } else {
    ScheduleLoad(index);
  }
}

void VersionManager::ScheduleLoad(int index) {
  load_executor_->Schedule([this, index] {
    Model& model = models_[static_cast<size_t>(index)];
    const bool loaded = Load(index);
    std::shared_ptr<Slot> old;
    const int from = model.update->record.from;
    if (loaded) {
      model.update->recorder->Begin(Phase::kSwitch);
      old = std::move(model.slot);
      Serve(&model, std::move(model.update->next));
      model.version = model.update->record.to;
      model.update->recorder->End();
    }
    Post([this, index, old = std::move(old), from]() mutable {
      if (old == nullptr) return Finish(index);
      ScheduleUnload(index, std::move(old), from,
                     [this, index] { Finish(index); });
    });
  });
}

void VersionManager::ScheduleUnload(int index, std::shared_ptr<Slot> slot,
                                    int version, std::function<void()> after) {
  unload_executor_->Schedule([this, index, slot = std::move(slot), version,
                              after = std::move(after)]() mutable {
    Unload(index, std::move(slot), version);
    Post(std::move(after));
  });
}

bool VersionManager::Load(int index) {
  Model& model = models_[static_cast<size_t>(index)];
  UpdateState& update = *model.update;
  const ModelConfig& config = config_.models[static_cast<size_t>(index)];
  const int version = update.record.to;
  update.recorder->set_version(version);
  update.next = std::make_shared<Slot>();
  update.next->index = version;
  update.next->version = factory_(index, version);
  const std::string error = update.next->version->Load(update.recorder.get());
  update.recorder->End();
  NoteResident(ReadResidentBytes());
  if (!error.empty()) {
    log_->AddError(config.name + "/" + std::to_string(version) + ": " + error);
    update.next.reset();
    return false;
  }
  update.record.pool_bytes =
      probe_.BytesOf(config.versions[static_cast<size_t>(version)]);
  return true;
}

void VersionManager::Serve(Model* model, std::shared_ptr<Slot> slot) {
  std::shared_ptr<const Lease> lease = std::make_shared<const Lease>(slot);
  model->slot = std::move(slot);
  std::atomic_store(&model->serving, std::move(lease));
}

void VersionManager::Unload(int index, std::shared_ptr<Slot> slot,
                            int version) {
  PhaseRecorder* const recorder =
      models_[static_cast<size_t>(index)].update->recorder.get();
  recorder->set_version(version);
  recorder->Begin(Phase::kDrain);
  {
    std::unique_lock<std::mutex> lock(slot->mutex);
    slot->changed.wait(lock, [&slot] { return slot->drained; });
  }
  recorder->Begin(Phase::kUnload);
  slot->version.reset();
  recorder->End();
}

void VersionManager::Finish(int index) {
  Model& model = models_[static_cast<size_t>(index)];
  std::unique_ptr<UpdateState> update;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    update = std::move(model.update);
  }
  update->recorder.reset();
  UpdateRecord& record = update->record;
  const ProcessCounters process = ReadProcessCounters();
  record.minor_faults = process.minor_faults - update->process.minor_faults;
  record.major_faults = process.major_faults - update->process.major_faults;
  record.rss_after = ReadResidentBytes();
  record.rss_peak = std::max(record.rss_peak, record.rss_after);
  // A new high-water mark of the process was reached in this update; what lies
  // below the old one only samples can see.
  if (process.peak_resident_bytes > update->process.peak_resident_bytes) {
    record.rss_peak = std::max(record.rss_peak, process.peak_resident_bytes);
  }
  record.pool_mappings_delta = probe_.Mappings() - update->pool_mappings;
  record.end_ns = MonotonicNs() - zero_ns_;
  log_->Add(record);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    --open_;
    changed_.notify_all();
  }
  Begin(index);
}

}  // namespace bench
}  // namespace tf_model_pool
