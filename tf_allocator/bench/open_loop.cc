// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/open_loop.h"

#include <sys/prctl.h>

#include <chrono>
#include <utility>

#include "tf_allocator/bench/affinity.h"

namespace tf_model_pool {
namespace bench {
namespace {

// libstdc++'s steady clock is CLOCK_MONOTONIC.
std::chrono::steady_clock::time_point At(int64_t monotonic_ns) {
  return std::chrono::steady_clock::time_point(
      std::chrono::nanoseconds(monotonic_ns));
}

}  // namespace

OpenLoop::OpenLoop(Options options,
                   const std::vector<ScheduledRequest>* schedule, Serve serve)
    : options_(std::move(options)),
      schedule_(*schedule),
      serve_(std::move(serve)),
      // All written here, so that no request pays a page fault for its record.
      records_(schedule->size()) {}

OpenLoop::~OpenLoop() {
  StopSending();
  Join(0);
}

void OpenLoop::Start(int64_t zero_ns) {
  zero_ns_ = zero_ns;
  for (int thread = 0; thread < options_.request_threads; ++thread) {
    servers_.emplace_back([this, thread] { ServeRequests(thread); });
  }
  generator_ = std::thread([this] { Generate(); });
}

bool OpenLoop::Finished() {
  std::lock_guard<std::mutex> lock(mutex_);
  return served_ == schedule_.size();
}

bool OpenLoop::Abandoned() {
  std::lock_guard<std::mutex> lock(mutex_);
  return abandoned_;
}

void OpenLoop::StopSending() {
  std::lock_guard<std::mutex> lock(mutex_);
  stopping_ = true;
  stop_.notify_all();
  sent_changed_.notify_all();
}

void OpenLoop::Generate() {
  // The kernel's default lets a sleeper wake 50 us late.
  prctl(PR_SET_TIMERSLACK, 1UL);
  if (!options_.generator_cpus.empty()) {
    SetThreadAffinity(options_.generator_cpus);  // was tried at start
  }
  std::unique_lock<std::mutex> lock(mutex_);
  for (size_t i = 0; i < schedule_.size(); ++i) {
    const auto due = At(zero_ns_ + schedule_[i].intended_ns);
    stop_.wait_until(lock, due, [this] { return stopping_; });
    if (stopping_) return;
    sent_ = i + 1;
    sent_changed_.notify_one();
  }
}

void OpenLoop::ServeRequests(int thread) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    sent_changed_.wait(lock, [this] {
      return abandoned_ || taken_ < sent_ || stopping_ ||
             taken_ == schedule_.size();
    });
    if (abandoned_ || taken_ == sent_) return;
    const size_t index = taken_++;
    // Whoever waits for the end of the schedule.
    if (taken_ == schedule_.size()) sent_changed_.notify_all();
    lock.unlock();
    const ScheduledRequest& request = schedule_[index];
    RequestRecord& record = records_[index];
    record.intended_ns = request.intended_ns;
    record.model = static_cast<int16_t>(request.model);
    record.thread = static_cast<int16_t>(thread);
    serve_(request, &record);
    lock.lock();
    ++served_;
    served_changed_.notify_all();
  }
}

void OpenLoop::Join(int64_t timeout_ns) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    served_changed_.wait_for(
        lock, std::chrono::nanoseconds(timeout_ns),
        [this] { return served_ == (stopping_ ? sent_ : schedule_.size()); });
    stopping_ = true;
    abandoned_ = true;
    dropped_ = sent_ - taken_;
    stop_.notify_all();
    sent_changed_.notify_all();
  }
  if (generator_.joinable()) generator_.join();
  for (std::thread& server : servers_) server.join();
  servers_.clear();
}

std::vector<RequestRecord> OpenLoop::Served() const {
  std::vector<RequestRecord> served;
  for (const RequestRecord& record : records_) {
    if (record.status != RequestRecord::kPending) served.push_back(record);
  }
  return served;
}

}  // namespace bench
}  // namespace tf_model_pool
