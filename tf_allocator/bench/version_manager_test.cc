// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/version_manager.h"

#include <gtest/gtest.h>

#include <map>

namespace tf_model_pool {
namespace bench {
namespace {

// Says and records what fake versions do.
struct World {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::string> events;  // "load a/1", "unload a/0"
  std::map<std::string, std::string> load_errors;
  int loading = 0;
  int loading_wanted = 0;  // a load waits until so many run at once
  std::vector<std::thread::id> load_threads;
  std::vector<std::thread::id> unload_threads;

  void Note(const std::string& event) {
    std::lock_guard<std::mutex> lock(mutex);
    events.push_back(event);
    changed.notify_all();
  }
  std::vector<std::string> Events() {
    std::lock_guard<std::mutex> lock(mutex);
    return events;
  }
};

class FakeVersion : public ModelVersion {
 public:
  FakeVersion(World* world, std::string name)
      : world_(*world), name_(std::move(name)) {}
  ~FakeVersion() override {
    {
      std::lock_guard<std::mutex> lock(world_.mutex);
      world_.unload_threads.push_back(std::this_thread::get_id());
    }
    world_.Note("unload " + name_);
  }
  std::string Load(PhaseRecorder* recorder) override {
    recorder->Begin(Phase::kImport);
    recorder->Begin(Phase::kRestore);
    world_.Note("load " + name_);
    std::unique_lock<std::mutex> lock(world_.mutex);
    world_.load_threads.push_back(std::this_thread::get_id());
    ++world_.loading;
    world_.changed.notify_all();
    world_.changed.wait(
        lock, [this] { return world_.loading >= world_.loading_wanted; });
    const auto error = world_.load_errors.find(name_);
    return error == world_.load_errors.end() ? "" : error->second;
  }
  int Run(int32_t number, const std::function<void()>& answered,
          double* checksum) override {
    answered();
    *checksum = number;
    return 0;
  }

 private:
  World& world_;
  const std::string name_;
};

class VersionManagerTest : public testing::Test {
 protected:
  VersionManagerTest() {
    config_.duration_s = 1;
    for (const char* name : {"a", "b"}) {
      ModelConfig model;
      model.name = name;
      model.versions = {"/0", "/1", "/2"};
      config_.models.push_back(model);
    }
  }

  void Start() {
    manager_ = std::make_unique<VersionManager>(
        &config_,
        [this](int model, int version) {
          return std::make_unique<FakeVersion>(
              &world_, config_.models[static_cast<size_t>(model)].name + "/" +
                           std::to_string(version));
        },
        &gate_, &log_, PoolProbe());
    ASSERT_EQ(manager_->LoadFirst([] { return false; }), "");
    world_.events.clear();
    world_.load_threads.clear();
    world_.loading = 0;
    manager_->Start(MonotonicNs());
  }

  void AwaitIdle() {
    while (!manager_->Idle()) std::this_thread::yield();
  }

  std::vector<std::string> PhasesOf(int model) {
    std::vector<std::string> phases;
    for (const PhaseRecord& record : log_.phases()) {
      if (record.model == model) {
        phases.push_back(std::string(PhaseName(record.phase)) + " " +
                         std::to_string(record.version));
      }
    }
    return phases;
  }

  World world_;
  Config config_;
  StallGate gate_;
  RunLog log_;
  std::unique_ptr<VersionManager> manager_;
};

using Strings = std::vector<std::string>;

TEST_F(VersionManagerTest, AvailabilityIsPreservedByLoadingBeforeUnloading) {
  Start();
  manager_->Update({0}, {});
  AwaitIdle();
  EXPECT_EQ(world_.Events(), (Strings{"load a/1", "unload a/0"}));
  EXPECT_EQ(PhasesOf(0), (Strings{"import 1", "restore 1", "switch 1",
                                  "drain 0", "unload 0"}));
  EXPECT_EQ(manager_->Serving(0)->index(), 1);
  EXPECT_EQ(manager_->Serving(1)->index(), 0);
}

TEST_F(VersionManagerTest, ResourcesArePreservedByUnloadingBeforeLoading) {
  config_.server.aspired_version_policy = VersionPolicy::kResourcePreserving;
  Start();
  manager_->Update({0}, {});
  AwaitIdle();
  EXPECT_EQ(world_.Events(), (Strings{"unload a/0", "load a/1"}));
  EXPECT_EQ(PhasesOf(0), (Strings{"drain 0", "unload 0", "import 1",
                                  "restore 1", "switch 1"}));
  EXPECT_EQ(manager_->Serving(0)->index(), 1);
}

TEST_F(VersionManagerTest, VersionsComeInTurnAndBeginAgain) {
  Start();
  for (int i = 0; i < 4; ++i) manager_->Update({0}, {});
  AwaitIdle();
  std::vector<int> to;
  for (const UpdateRecord& update : log_.updates()) {
    EXPECT_LE(update.begin_ns, update.end_ns);
    to.push_back(update.to);
  }
  EXPECT_EQ(to, (std::vector<int>{1, 2, 0, 1}));
}

TEST_F(VersionManagerTest, TwoModelsOverlapWithTwoLoadThreads) {
  // GIVEN loads that end only when both run
  config_.server.num_load_threads = 2;
  Start();
  world_.loading_wanted = 2;
  // WHEN both models are updated at once THEN this ends at all
  manager_->Update({0, 1}, {});
  AwaitIdle();
  EXPECT_EQ(manager_->Serving(0)->index(), 1);
  EXPECT_EQ(manager_->Serving(1)->index(), 1);
  ASSERT_EQ(world_.load_threads.size(), 2u);
  EXPECT_NE(world_.load_threads[0], world_.load_threads[1]);
}

TEST_F(VersionManagerTest, WithoutThreadsAllHappensOnTheManagersThread) {
  Start();
  manager_->Update({0, 1}, {});
  AwaitIdle();
  ASSERT_EQ(world_.load_threads.size(), 2u);
  EXPECT_EQ(world_.load_threads[0], world_.load_threads[1]);
  EXPECT_EQ(world_.load_threads[0], world_.unload_threads[0]);
  EXPECT_NE(world_.load_threads[0], std::this_thread::get_id());
}

TEST_F(VersionManagerTest, AVersionInUseIsNotUnloaded) {
  Start();
  // GIVEN a request in flight on the first version
  auto lease = manager_->Serving(0);
  manager_->Update({0}, {});
  // WHEN the next version serves already
  while (manager_->Serving(0)->index() != 1) std::this_thread::yield();
  EXPECT_EQ(world_.Events(), (Strings{"load a/1"}));
  EXPECT_FALSE(manager_->Idle());
  double checksum = 0;
  EXPECT_EQ(lease->version()->Run(7, [] {}, &checksum), 0);
  EXPECT_EQ(checksum, 7);
  // THEN the first goes when the request ends
  lease.reset();
  AwaitIdle();
  EXPECT_EQ(world_.Events(), (Strings{"load a/1", "unload a/0"}));
}

TEST_F(VersionManagerTest, AFailedLoadKeepsTheVersionBeforeAndIsReported) {
  world_.load_errors["a/1"] = "no such file";
  Start();
  manager_->Update({0}, {});
  AwaitIdle();
  EXPECT_EQ(manager_->Serving(0)->index(), 0);
  EXPECT_EQ(log_.errors(), (Strings{"a/1: no such file"}));
}

TEST_F(VersionManagerTest, AStallLiesInItsPhaseAndHoldsRequests) {
  Start();
  manager_->Update({0}, {{Phase::kRestore, 5000000}});
  AwaitIdle();
  const auto stalls = log_.stalls();
  ASSERT_EQ(stalls.size(), 1u);
  EXPECT_GE(stalls[0].end_ns - stalls[0].begin_ns, 5000000);
  for (const PhaseRecord& phase : log_.phases()) {
    if (phase.phase != Phase::kRestore) continue;
    EXPECT_LE(phase.begin_ns, stalls[0].begin_ns);
    EXPECT_GE(phase.end_ns, stalls[0].end_ns);
  }
  gate_.Pass();  // is open again
}

TEST_F(VersionManagerTest, PhasesOfAnUpdateDoNotOverlap) {
  config_.server.num_load_threads = 1;
  config_.server.num_unload_threads = 1;
  Start();
  manager_->Update({0}, {});
  AwaitIdle();
  int64_t end_ns = log_.updates()[0].begin_ns;
  for (const PhaseRecord& phase : log_.phases()) {
    EXPECT_GE(phase.begin_ns, end_ns);
    EXPECT_GE(phase.end_ns, phase.begin_ns);
    end_ns = phase.end_ns;
  }
  EXPECT_GE(log_.updates()[0].end_ns, end_ns);
}

TEST(StallGateTest, RequestsWaitUntilTheHoldEnds) {
  constexpr int64_t kHoldNs = 20000000;
  StallGate gate;
  const int64_t begin_ns = MonotonicNs();
  std::thread holder([&] { gate.Hold(kHoldNs); });
  while (!gate.Closed() && MonotonicNs() - begin_ns < kHoldNs) {
  }
  gate.Pass();
  EXPECT_GE(MonotonicNs() - begin_ns, kHoldNs);
  holder.join();
  EXPECT_FALSE(gate.Closed());
}

}  // namespace
}  // namespace bench
}  // namespace tf_model_pool
