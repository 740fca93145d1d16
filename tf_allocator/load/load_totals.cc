// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/load/load_totals.h"

#include <mutex>

namespace tf_model_pool {
namespace {

std::mutex mu;

LoadTotals& Totals() {
  static LoadTotals* totals = new LoadTotals;
  return *totals;
}

}  // namespace

void CountDirectRestore() {
  const std::lock_guard<std::mutex> lock(mu);
  ++Totals().direct_restores;
}

void CountGraphRestore(const std::string& why) {
  const std::lock_guard<std::mutex> lock(mu);
  ++Totals().graph_restores;
  Totals().last_graph_restore_reason = why;
}

void CountColdVersion() {
  const std::lock_guard<std::mutex> lock(mu);
  ++Totals().cold_versions;
}

LoadTotals GetLoadTotals() {
  const std::lock_guard<std::mutex> lock(mu);
  return Totals();
}

}  // namespace tf_model_pool
