// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/report/introspection.h"

#include "tensorflow/core/common_runtime/process_state.h"
#include "tf_allocator/device/process_pools.h"
#include "tf_allocator/device/process_settings.h"
#include "tf_allocator/pool/pool_registry.h"
#include "tf_allocator/report/unbound_hooks.h"

namespace tf_model_pool {

using tensorflow::ProcessState;

std::vector<PoolStats> ListPools() {
  return ProcessState::singleton()->ListModelPools();
}

Totals GetTotals() {
  const PoolRegistry* pools = tensorflow::ModelPoolsInUse();
  if (pools != nullptr) return pools->GetTotals();
  Totals totals;
  totals.limit_bytes = ProcessSettings().limit_bytes;
  return totals;
}

std::string PoolOf(const void* address) {
  return ProcessState::singleton()->ModelPoolOf(address);
}

size_t Trim() { return ProcessState::singleton()->TrimModelPools(); }

Status GetStatus() {
  if (!ProcessSettingsError().empty()) return {false, ProcessSettingsError()};
  if (!ProcessSettings().enabled) return {false, "TF_MODEL_POOL=off"};
  const std::string unbound = tensorflow::UnboundHooks();
  if (!unbound.empty()) return {false, "hooks not bound: " + unbound};
  return {true, ""};
}

std::map<std::string, std::string> EffectiveSettings() {
  return ProcessSettings().ToMap();
}

}  // namespace tf_model_pool
