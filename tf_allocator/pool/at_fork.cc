// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/at_fork.h"

#include <pthread.h>

#include <utility>
#include <vector>

namespace tf_model_pool {
namespace {

struct Handlers {
  std::function<void()> before;
  std::function<void()> in_parent;
  std::function<void()> in_child;
};

// One handler for the system, which calls those of one library in an order
// that depends on which was registered first.
class Forks {
 public:
  static Forks& OfProcess() {
    // Never destroyed: threads may fork while the process ends.
    static Forks* const forks = [] {
      pthread_atfork([] { OfProcess().Before(); },
                     [] { OfProcess().After(&Handlers::in_parent); },
                     [] { OfProcess().After(&Handlers::in_child); });
      return new Forks;
    }();
    return *forks;
  }

  void Add(Handlers handlers) {
    const std::lock_guard<std::mutex> lock(mu_);
    handlers_.push_back(std::move(handlers));
  }
  void AddWait(std::function<void()> wait) {
    const std::lock_guard<std::mutex> lock(mu_);
    waits_.push_back(std::move(wait));
  }

 private:
  void Before() {
    mu_.lock();
    const std::vector<std::function<void()>> waits = waits_;
    mu_.unlock();
    for (const auto& wait : waits) wait();
    mu_.lock();
    for (const Handlers& each : handlers_) {
      if (each.before) each.before();
    }
  }
  void After(std::function<void()> Handlers::* handler) {
    for (const Handlers& each : handlers_) {
      if (each.*handler) (each.*handler)();
    }
    mu_.unlock();
  }

  std::mutex mu_;  // held while the process forks
  std::vector<Handlers> handlers_;
  std::vector<std::function<void()>> waits_;
};

}  // namespace

void AtFork(std::function<void()> before, std::function<void()> in_parent,
            std::function<void()> in_child) {
  Forks::OfProcess().Add(
      {std::move(before), std::move(in_parent), std::move(in_child)});
}

void WaitBeforeFork(std::function<void()> wait) {
  Forks::OfProcess().AddWait(std::move(wait));
}

ForkSafeMutex::ForkSafeMutex() {
  AtFork([this] { lock(); }, [this] { unlock(); }, [this] { unlock(); });
}

}  // namespace tf_model_pool
