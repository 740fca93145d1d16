// SPDX-License-Identifier: Apache-2.0
//
// The model pools in TensorFlow's monitoring registry, from which TensorFlow
// Serving's Prometheus endpoint (--monitoring_config_file) and every other
// exporter of tsl::monitoring read. All values are int64, the one scalar type
// that Serving's exporter prints; it turns "/" of a name into ":".
//
// For each pool: gauges with the labels `model_dir` and `slot`, which together
// name one pool. A slot that another model has adopted appears under that
// model alone.
//
// | name, after /tensorflow/core/model_pool/ | value
// | bytes_in_use   | granted to tensors, each rounded up to 64
// | bytes_reserved | mapped for the slot, in use or not
// | bytes_standby  | bytes_reserved while nothing lies in the slot, else 0
// | bytes_fallback | bytes of its version that lie in the device's allocator
// |                | because the pool could not grow
// | tensors        | buffers in it
// | info           | always 1; further labels: `version` (that the slot holds
// |                | or held last) and `state` (loading, live, standby)
//
// For the process: one gauge, and counters since its start.
//
// | name, after /tensorflow/core/model_pool/ | kind    | value
// | limit_bytes    | gauge   | TF_MODEL_POOL_LIMIT_MB in bytes, 0 = no limit
// | version_loads  | counter | versions that took an idle slot; label `memory`:
// |                |         | "reused" if the slot had memory (of an
// |                |         | earlier version, or prepared), else "new"
// | fallback_loads | counter | restores that got no pool
// | fallback_bytes | counter | bytes that went to the device's allocator, for
// |                |         | that or for want of room in a pool
// | mappings       | counter | times that pools made memory usable
// | prefault_usecs | counter | microseconds that this took, page faults of
// |                |         | prefaulting included
// | trimmed_bytes  | counter | given back from standby slots
// | prepared_bytes | counter | made usable ahead of need
// | cold_versions  | counter | requests of a kind whose executors no load and
// |                |         | no earlier request had made
// | restores       | counter | restore and init ops of C++ LoadSavedModel;
// |                |         | label `path`: "direct" if the variables were
// |                |         | set without running the op, "graph" if it ran
//
// Values are read when somebody collects: a metric costs neither requests nor
// loads anything, a pool that is gone reports nothing, and there are never more
// series than pools. Collecting takes no lock that a request takes.

#ifndef TF_ALLOCATOR_DEVICE_METRICS_H_
#define TF_ALLOCATOR_DEVICE_METRICS_H_

#include "tf_allocator/pool/pool_registry.h"

namespace tensorflow {

// Registers the metrics, for good. `pools` is not owned and must live as long
// as the process. Call once, and hold no lock that a collector may want.
void RegisterModelPoolMetrics(const tf_model_pool::PoolRegistry* pools);

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_DEVICE_METRICS_H_
