// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/device/load_totals.h"

#include <functional>
#include <mutex>

#include "tf_allocator/pool/at_fork.h"

namespace tf_model_pool {
namespace {

struct Counted {
  ForkSafeMutex mu;
  LoadTotals totals;

  static Counted& OfProcess() {
    static Counted* const counted = new Counted;
    return *counted;
  }
};

void Count(const std::function<void(LoadTotals*)>& add) {
  Counted& counted = Counted::OfProcess();
  const std::lock_guard<std::mutex> lock(counted.mu);
  add(&counted.totals);
}

}  // namespace

void CountDirectRestore() {
  Count([](LoadTotals* totals) { ++totals->direct_restores; });
}

void CountGraphRestore(const std::string& why) {
  Count([&why](LoadTotals* totals) {
    ++totals->graph_restores;
    totals->last_graph_restore_reason = why;
  });
}

void CountColdVersion() {
  Count([](LoadTotals* totals) { ++totals->cold_versions; });
}

LoadTotals GetLoadTotals() {
  LoadTotals copy;
  Count([&copy](LoadTotals* totals) { copy = *totals; });
  return copy;
}

}  // namespace tf_model_pool
