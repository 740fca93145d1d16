// SPDX-License-Identifier: Apache-2.0
//
// Records of a run besides its requests: phases, updates, stalls, burns,
// samples, errors. Threads of the driver add to it; the result is made from it.
// Times are from the driver's zero.

#ifndef TF_ALLOCATOR_BENCH_RUN_LOG_H_
#define TF_ALLOCATOR_BENCH_RUN_LOG_H_

#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tf_allocator/bench/config.h"
#include "tf_allocator/binary/json_value.h"

namespace tf_model_pool {
namespace bench {

// Faults are the process's, because TensorFlow's own threads do much of the
// work of a phase.
struct PhaseRecord {
  int model = 0;
  int version = 0;
  Phase phase = Phase::kImport;
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
  int64_t minor_faults = 0;
  int64_t major_faults = 0;
};

struct UpdateRecord {
  int model = 0;
  int from = 0;
  int to = 0;
  int64_t begin_ns = 0;
  int64_t end_ns = 0;  // the old version is unloaded
  int64_t minor_faults = 0;
  int64_t major_faults = 0;
  int64_t rss_before = 0;
  int64_t rss_peak = 0;
  int64_t rss_after = 0;
  int64_t pool_bytes = 0;  // of the new version, in its pool
  int64_t pool_mappings_delta = 0;
};

struct StallRecord {
  int model = 0;
  Phase phase = Phase::kImport;
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
};

struct BurnRecord {
  std::string kind;    // "burn_cpu" or "burn_stream"
  std::string policy;  // the burner's scheduling class: "idle"
  int64_t pid = 0;
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
  int64_t bytes = 0;  // written to memory
};

// The process at a moment; counters since it began.
struct SampleRecord {
  int64_t at_ns = 0;
  int64_t rss_bytes = 0;
  int64_t minor_faults = 0;
  int64_t major_faults = 0;
  int64_t runqueue_ns = 0;
  int64_t utime_ns = 0;
  int64_t stime_ns = 0;
  int64_t steal_ns = 0;        // the machine's
  int64_t system_busy_ns = 0;  // the machine's
};

// Thread-safe.
class RunLog {
 public:
  void Add(PhaseRecord record) { AddTo(&phases_, std::move(record)); }
  void Add(UpdateRecord record) { AddTo(&updates_, std::move(record)); }
  void Add(StallRecord record) { AddTo(&stalls_, std::move(record)); }
  void Add(BurnRecord record) { AddTo(&burns_, std::move(record)); }
  void Add(SampleRecord record) { AddTo(&samples_, std::move(record)); }
  void AddError(std::string error) { AddTo(&errors_, std::move(error)); }

  std::vector<PhaseRecord> phases() const { return Copy(phases_); }
  std::vector<UpdateRecord> updates() const { return Copy(updates_); }
  std::vector<StallRecord> stalls() const { return Copy(stalls_); }
  std::vector<std::string> errors() const { return Copy(errors_); }

  // Adds "phases", "updates", "stalls", "burns", "samples" and "errors" to an
  // object; models are called by name.
  void AddTo(const Config& config, JsonValue* result) const;

 private:
  template <typename Record>
  void AddTo(std::vector<Record>* records, Record record) {
    std::lock_guard<std::mutex> lock(mutex_);
    records->push_back(std::move(record));
  }
  template <typename Record>
  std::vector<Record> Copy(const std::vector<Record>& records) const {
    std::lock_guard<std::mutex> lock(mutex_);
    return records;
  }

  mutable std::mutex mutex_;
  std::vector<PhaseRecord> phases_;
  std::vector<UpdateRecord> updates_;
  std::vector<StallRecord> stalls_;
  std::vector<BurnRecord> burns_;
  std::vector<SampleRecord> samples_;
  std::vector<std::string> errors_;
};

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_RUN_LOG_H_
