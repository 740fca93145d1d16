// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/run_log.h"

namespace tf_model_pool {
namespace bench {
namespace {

template <typename Record, typename ToJson>
JsonValue List(const std::vector<Record>& records, const ToJson& to_json) {
  JsonValue array = JsonValue::Array();
  for (const Record& record : records) array.Append(to_json(record));
  return array;
}

}  // namespace

void RunLog::AddTo(const Config& config, JsonValue* result) const {
  const auto name = [&config](int model) {
    return config.models[static_cast<size_t>(model)].name;
  };
  std::lock_guard<std::mutex> lock(mutex_);
  result->Set("phases", List(phases_, [&](const PhaseRecord& r) {
                return JsonValue::Object({{"model", name(r.model)},
                                          {"version", r.version},
                                          {"phase", PhaseName(r.phase)},
                                          {"begin_ns", r.begin_ns},
                                          {"end_ns", r.end_ns},
                                          {"minor_faults", r.minor_faults},
                                          {"major_faults", r.major_faults}});
              }));
  result->Set("updates", List(updates_, [&](const UpdateRecord& r) {
                return JsonValue::Object(
                    {{"model", name(r.model)},
                     {"from", r.from},
                     {"to", r.to},
                     {"begin_ns", r.begin_ns},
                     {"end_ns", r.end_ns},
                     {"minor_faults", r.minor_faults},
                     {"major_faults", r.major_faults},
                     {"rss_before", r.rss_before},
                     {"rss_peak", r.rss_peak},
                     {"rss_after", r.rss_after},
                     {"pool_bytes", r.pool_bytes},
                     {"pool_mappings_delta", r.pool_mappings_delta}});
              }));
  result->Set("stalls", List(stalls_, [&](const StallRecord& r) {
                return JsonValue::Object({{"model", name(r.model)},
                                          {"phase", PhaseName(r.phase)},
                                          {"begin_ns", r.begin_ns},
                                          {"end_ns", r.end_ns}});
              }));
  result->Set("burns", List(burns_, [](const BurnRecord& r) {
                return JsonValue::Object({{"kind", r.kind},
                                          {"policy", r.policy},
                                          {"pid", r.pid},
                                          {"begin_ns", r.begin_ns},
                                          {"end_ns", r.end_ns},
                                          {"bytes", r.bytes}});
              }));
  result->Set(
      "samples", List(samples_, [](const SampleRecord& r) {
        return JsonValue::Object({{"at_ns", r.at_ns},
                                  {"rss_bytes", r.rss_bytes},
                                  {"minor_faults", r.minor_faults},
                                  {"major_faults", r.major_faults},
                                  {"runqueue_ns", r.runqueue_ns},
                                  {"utime_ns", r.utime_ns},
                                  {"stime_ns", r.stime_ns},
                                  {"steal_ns", r.steal_ns},
                                  {"system_busy_ns", r.system_busy_ns}});
      }));
  result->Set("errors", List(errors_, [](const std::string& error) {
                return JsonValue(error);
              }));
}

}  // namespace bench
}  // namespace tf_model_pool
