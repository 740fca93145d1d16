// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/fork_safe_mutex.h"

#include <pthread.h>

#include <vector>

namespace tf_model_pool {
namespace {

struct Known {
  std::mutex mu;
  std::vector<std::mutex*> mutexes;

  static Known& OfProcess() {
    static Known* const known = [] {
      pthread_atfork([] { OfProcess().Lock(); }, [] { OfProcess().Unlock(); },
                     [] { OfProcess().Unlock(); });
      return new Known;
    }();
    return *known;
  }

  void Lock() {
    mu.lock();
    for (std::mutex* each : mutexes) each->lock();
  }
  void Unlock() {
    for (std::mutex* each : mutexes) each->unlock();
    mu.unlock();
  }
};

}  // namespace

ForkSafeMutex::ForkSafeMutex() {
  Known& known = Known::OfProcess();
  const std::lock_guard<std::mutex> lock(known.mu);
  known.mutexes.push_back(this);
}

}  // namespace tf_model_pool
