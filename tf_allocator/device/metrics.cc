// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/device/metrics.h"

#include <cstdint>
#include <functional>
#include <string>

#include "tensorflow/core/lib/monitoring/collection_registry.h"
#include "tensorflow/core/lib/monitoring/metric_def.h"
#include "tf_allocator/device/load_totals.h"
#include "tf_allocator/pool/pool_stats.h"

namespace tensorflow {
namespace {

using monitoring::MetricDef;
using monitoring::MetricKind;
using tf_model_pool::PoolRegistry;
using tf_model_pool::PoolStats;
using tf_model_pool::Totals;

std::string FullName(const char* name) {
  return std::string("/tensorflow/core/model_pool/") + name;
}

// `collect` gets the metric's collector whenever somebody collects.
template <typename Definition, typename Collect>
void Register(const Definition* definition, Collect collect) {
  // The handle would unregister the metric; the process never does.
  monitoring::CollectionRegistry::Default()
      ->Register(
          definition,
          [definition, collect](monitoring::MetricCollectorGetter getter) {
            auto collector = getter.Get(definition);
            collect(&collector);
          })
      .release();
}

void OfEachPool(const PoolRegistry* pools, const char* name,
                const char* description,
                std::function<size_t(const PoolStats&)> value) {
  using Definition = MetricDef<MetricKind::kGauge, int64_t, 2>;
  Register(new Definition(FullName(name), description, "model_dir", "slot"),
           [pools, value](auto* collector) {
             for (const PoolStats& pool : pools->List()) {
               collector->CollectValue(
                   {pool.model_dir, std::string(1, pool.slot)},
                   static_cast<int64_t>(value(pool)));
             }
           });
}

template <MetricKind kKind>
void OfTheProcess(const PoolRegistry* pools, const char* name,
                  const char* description,
                  std::function<uint64_t(const Totals&)> value) {
  Register(new MetricDef<kKind, int64_t, 0>(FullName(name), description),
           [pools, value](auto* collector) {
             collector->CollectValue(
                 {}, static_cast<int64_t>(value(pools->GetTotals())));
           });
}

}  // namespace

void RegisterModelPoolMetrics(const PoolRegistry* pools) {
  OfEachPool(pools, "bytes_in_use", "Bytes granted to tensors in the pool.",
             [](const PoolStats& pool) { return pool.bytes_in_use; });
  OfEachPool(pools, "bytes_reserved",
             "Bytes mapped for the pool, in use or not.",
             [](const PoolStats& pool) { return pool.bytes_reserved; });
  OfEachPool(pools, "bytes_standby",
             "Bytes kept mapped for the next version, while no tensor lies in "
             "the pool.",
             [](const PoolStats& pool) {
               return pool.state == tf_model_pool::PoolState::kStandby
                          ? pool.bytes_reserved
                          : 0;
             });
  OfEachPool(pools, "bytes_fallback",
             "Bytes of the pool's version that lie in the device's own "
             "allocator because the pool could not grow.",
             [](const PoolStats& pool) { return pool.fallback_bytes; });
  OfEachPool(pools, "tensors", "Buffers in the pool.",
             [](const PoolStats& pool) { return pool.num_tensors; });
  Register(new MetricDef<MetricKind::kGauge, int64_t, 4>(
               FullName("info"),
               "Always 1; the labels say what the pool holds or held last.",
               "model_dir", "slot", "version", "state"),
           [pools](auto* collector) {
             for (const PoolStats& pool : pools->List()) {
               collector->CollectValue(
                   {pool.model_dir, std::string(1, pool.slot), pool.version,
                    tf_model_pool::PoolStateName(pool.state)},
                   1);
             }
           });

  OfTheProcess<MetricKind::kGauge>(
      pools, "limit_bytes",
      "What all pools together may reserve, 0 = no limit.",
      [](const Totals& totals) { return totals.limit_bytes; });
  Register(new MetricDef<MetricKind::kCumulative, int64_t, 1>(
               FullName("version_loads"),
               "Versions that took an idle slot, by whether it had memory.",
               "memory"),
           [pools](auto* collector) {
             const Totals totals = pools->GetTotals();
             collector->CollectValue(
                 {"new"}, static_cast<int64_t>(totals.loads_into_new_memory));
             collector->CollectValue(
                 {"reused"},
                 static_cast<int64_t>(totals.loads_into_reused_memory));
           });
  OfTheProcess<MetricKind::kCumulative>(
      pools, "fallback_loads", "Restores that got no pool.",
      [](const Totals& totals) { return totals.fallback_loads; });
  OfTheProcess<MetricKind::kCumulative>(
      pools, "fallback_bytes",
      "Bytes of variables that went to the device's own allocator.",
      [](const Totals& totals) { return totals.fallback_bytes; });
  OfTheProcess<MetricKind::kCumulative>(
      pools, "mappings", "Times that pools made memory usable.",
      [](const Totals& totals) { return totals.num_mappings; });
  OfTheProcess<MetricKind::kCumulative>(
      pools, "prefault_usecs",
      "Microseconds that it took to make memory usable, page faults of "
      "prefaulting included.",
      [](const Totals& totals) { return totals.prefault_ns / 1000; });
  OfTheProcess<MetricKind::kCumulative>(
      pools, "trimmed_bytes", "Bytes given back from standby slots.",
      [](const Totals& totals) { return totals.trimmed_bytes; });
  OfTheProcess<MetricKind::kCumulative>(
      pools, "prepared_bytes", "Bytes made usable ahead of need.",
      [](const Totals& totals) { return totals.prepared_bytes; });
  OfTheProcess<MetricKind::kCumulative>(
      pools, "cold_versions",
      "Requests of a kind whose executors no load and no earlier request had "
      "made.",
      [](const Totals&) {
        return tf_model_pool::GetLoadTotals().cold_versions;
      });
  Register(new MetricDef<MetricKind::kCumulative, int64_t, 1>(
               FullName("restores"),
               "Restore and init ops of C++ LoadSavedModel, by how they were "
               "done.",
               "path"),
           [](auto* collector) {
             const tf_model_pool::LoadTotals totals =
                 tf_model_pool::GetLoadTotals();
             collector->CollectValue(
                 {"direct"}, static_cast<int64_t>(totals.direct_restores));
             collector->CollectValue(
                 {"graph"}, static_cast<int64_t>(totals.graph_restores));
           });
}

}  // namespace tensorflow
