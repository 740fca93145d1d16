// SPDX-License-Identifier: Apache-2.0
//
// The fields that programs see of each record, by name. The Python binding and
// the C interface read them from here.

#ifndef TF_ALLOCATOR_REPORT_FIELDS_H_
#define TF_ALLOCATOR_REPORT_FIELDS_H_

#include "tf_allocator/device/load_totals.h"
#include "tf_allocator/pool/pool_stats.h"

namespace tf_model_pool {

template <typename Visit>
void VisitFieldsOf(const PoolStats*, Visit visit) {
  visit("id", &PoolStats::id);
  visit("name", &PoolStats::name);
  visit("model_dir", &PoolStats::model_dir);
  visit("version", &PoolStats::version);
  visit("slot", &PoolStats::slot);
  visit("state", &PoolStats::state);
  visit("bytes_in_use", &PoolStats::bytes_in_use);
  visit("peak_bytes_in_use", &PoolStats::peak_bytes_in_use);
  visit("bytes_reserved", &PoolStats::bytes_reserved);
  visit("num_tensors", &PoolStats::num_tensors);
  visit("largest_free_block", &PoolStats::largest_free_block);
  visit("fallback_bytes", &PoolStats::fallback_bytes);
  visit("num_regions", &PoolStats::num_regions);
  visit("num_mappings", &PoolStats::num_mappings);
  visit("num_loads", &PoolStats::num_loads);
}

template <typename Visit>
void VisitFieldsOf(const Totals*, Visit visit) {
  visit("bytes_in_use", &Totals::bytes_in_use);
  visit("bytes_reserved", &Totals::bytes_reserved);
  visit("limit_bytes", &Totals::limit_bytes);
  visit("num_pools", &Totals::num_pools);
  visit("num_mappings", &Totals::num_mappings);
  visit("fallback_loads", &Totals::fallback_loads);
  visit("fallback_bytes", &Totals::fallback_bytes);
  visit("trimmed_bytes", &Totals::trimmed_bytes);
  visit("prepared_bytes", &Totals::prepared_bytes);
  visit("last_fallback_reason", &Totals::last_fallback_reason);
}

template <typename Visit>
void VisitFieldsOf(const LoadTotals*, Visit visit) {
  visit("direct_restores", &LoadTotals::direct_restores);
  visit("graph_restores", &LoadTotals::graph_restores);
  visit("cold_versions", &LoadTotals::cold_versions);
  visit("last_graph_restore_reason", &LoadTotals::last_graph_restore_reason);
}

// Calls visit(name, &Record::field) for each field of a record above.
template <typename Record, typename Visit>
void VisitFields(Visit visit) {
  VisitFieldsOf(static_cast<const Record*>(nullptr), visit);
}

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_REPORT_FIELDS_H_
