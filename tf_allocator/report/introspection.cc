// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/report/introspection.h"

#include "tensorflow/core/common_runtime/process_state.h"
#include "tf_allocator/device/process_pools.h"
#include "tf_allocator/device/process_settings.h"
#include "tf_allocator/pool/pool_registry.h"
#include "tf_allocator/report/unbound_hooks.h"

namespace tf_model_pool {

using tensorflow::ProcessState;

const char* StatusCodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kActive:
      return "active";
    case StatusCode::kOff:
      return "off";
    case StatusCode::kMalformedSetting:
      return "malformed_setting";
    case StatusCode::kHooksNotBound:
      return "hooks_not_bound";
  }
  return "unknown";
}

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
  if (!ProcessSettingsError().empty()) {
    return {StatusCode::kMalformedSetting, ProcessSettingsError()};
  }
  if (!ProcessSettings().enabled) {
    return {StatusCode::kOff, "TF_MODEL_POOL=off"};
  }
  const std::string unbound = tensorflow::UnboundHooks();
  if (!unbound.empty()) {
    return {StatusCode::kHooksNotBound, "hooks not bound: " + unbound};
  }
  return {};
}

std::map<std::string, std::string> EffectiveSettings() {
  return ProcessSettings().ToMap();
}

}  // namespace tf_model_pool
