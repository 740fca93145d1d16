// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/pool_probe.h"

#include <dlfcn.h>

#include <vector>

#include "tf_allocator/pool/pool_stats.h"
#include "tf_allocator/report/introspection.h"

namespace tf_model_pool {
namespace bench {
namespace {

// The functions of report/introspection.h and load/unload_thread.h, of the
// library's own version: the driver is shipped with it.
template <typename Function>
Function* Find(const char* symbol) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, symbol));
}

using StatusFunction = tf_model_pool::Status();
using TotalsFunction = tf_model_pool::Totals();
using ListFunction = std::vector<tf_model_pool::PoolStats>();

StatusFunction* FindStatus() {
  static StatusFunction* const function =
      Find<StatusFunction>("_ZN13tf_model_pool9GetStatusEv");
  return function;
}

TotalsFunction* FindTotals() {
  static TotalsFunction* const function =
      Find<TotalsFunction>("_ZN13tf_model_pool9GetTotalsEv");
  return function;
}

ListFunction* FindList() {
  static ListFunction* const function =
      Find<ListFunction>("_ZN13tf_model_pool9ListPoolsEv");
  return function;
}

std::string WithoutTrailingSlashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

bool PoolProbe::Active() const {
  return FindStatus() != nullptr && FindStatus()().active();
}

std::string PoolProbe::Status() const {
  if (FindStatus() == nullptr) return "no libtf_model_pool.so in the process";
  return FindStatus()().reason;
}

void PoolProbe::WaitForUnloads() const {
  static auto* const function =
      Find<void()>("_ZN13tf_model_pool14WaitForUnloadsEv");
  if (function != nullptr) function();
}

int64_t PoolProbe::Mappings() const {
  if (FindTotals() == nullptr) return 0;
  return static_cast<int64_t>(FindTotals()().num_mappings);
}

int64_t PoolProbe::BytesOf(const std::string& directory) const {
  if (FindList() == nullptr) return 0;
  const std::string wanted = WithoutTrailingSlashes(directory);
  for (const PoolStats& pool : FindList()()) {
    const std::string path = pool.version.empty()
                                 ? pool.model_dir
                                 : pool.model_dir + "/" + pool.version;
    if (path == wanted && pool.state != PoolState::kStandby) {
      return static_cast<int64_t>(pool.bytes_in_use);
    }
  }
  return 0;
}

}  // namespace bench
}  // namespace tf_model_pool
