// SPDX-License-Identifier: Apache-2.0
//
// Sends requests at the times of a schedule, whether the server keeps up or
// not, and lets threads serve them in that order.

#ifndef TF_ALLOCATOR_BENCH_OPEN_LOOP_H_
#define TF_ALLOCATOR_BENCH_OPEN_LOOP_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "tf_allocator/bench/arrivals.h"
#include "tf_allocator/bench/request_record.h"

namespace tf_model_pool {
namespace bench {

class OpenLoop {
 public:
  struct Options {
    int request_threads = 1;
    std::vector<int> generator_cpus;  // empty = those of the process
  };
  // Serves one request: fills version, status, checksum, start_ns, end_ns and
  // counters of the record. Is called by several threads at once.
  using Serve =
      std::function<void(const ScheduledRequest& request, RequestRecord*)>;

  // `schedule` is in order of time and outlives this.
  OpenLoop(Options options, const std::vector<ScheduledRequest>* schedule,
           Serve serve);
  ~OpenLoop();
  OpenLoop(const OpenLoop&) = delete;
  OpenLoop& operator=(const OpenLoop&) = delete;

  // Starts the threads; `zero_ns` is the schedule's zero on CLOCK_MONOTONIC.
  void Start(int64_t zero_ns);

  // True when every request of the schedule was sent and served.
  bool Finished();

  // Sends no further request; those that were sent are still served.
  void StopSending();

  // Waits until every request that was sent is served, at most for
  // `timeout_ns`. What is then still waiting is dropped; one that is being
  // served is waited for. Ends all threads.
  void Join(int64_t timeout_ns);

  // True if Join has given up waiting.
  bool Abandoned();

  // For after Join: what was served, in order of intended time, and how many
  // were sent but not served.
  std::vector<RequestRecord> Served() const;
  size_t dropped() const { return dropped_; }

 private:
  void Generate();
  void ServeRequests(int thread);

  const Options options_;
  const std::vector<ScheduledRequest>& schedule_;
  const Serve serve_;
  int64_t zero_ns_ = 0;
  std::vector<RequestRecord> records_;

  std::mutex mutex_;
  std::condition_variable sent_changed_;
  std::condition_variable served_changed_;
  std::condition_variable stop_;
  size_t sent_ = 0;
  size_t taken_ = 0;
  size_t served_ = 0;
  bool stopping_ = false;   // send no more
  bool abandoned_ = false;  // take no more
  size_t dropped_ = 0;

  std::thread generator_;
  std::vector<std::thread> servers_;
};

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_OPEN_LOOP_H_
