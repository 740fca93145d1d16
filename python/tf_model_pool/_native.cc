// SPDX-License-Identifier: Apache-2.0
//
// Python module tf_model_pool._native: the introspection functions of the
// library, as they are. What they mean to a program is in api.py.
//
// Import tensorflow before this module: it links the library, and TensorFlow
// must be the one to load its own libraries.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>

#include "tf_allocator/device/load_totals.h"
#include "tf_allocator/pool/pool_stats.h"
#include "tf_allocator/report/introspection.h"

namespace py = pybind11;

namespace {

std::string PoolOfAddress(std::uintptr_t address) {
  return tf_model_pool::PoolOf(reinterpret_cast<const void*>(address));
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  using tf_model_pool::LoadTotals;
  using tf_model_pool::PoolStats;
  using tf_model_pool::Status;
  using tf_model_pool::Totals;

  m.doc() = "Model pools of this process. Sizes are bytes.";

  py::class_<PoolStats>(m, "PoolStats")
      .def_property_readonly(
          "id", [](const PoolStats& s) { return static_cast<int>(s.id); })
      .def_readonly("name", &PoolStats::name)
      .def_readonly("model_dir", &PoolStats::model_dir)
      .def_readonly("version", &PoolStats::version)
      .def_property_readonly(
          "slot", [](const PoolStats& s) { return std::string(1, s.slot); })
      .def_property_readonly("state",
                             [](const PoolStats& s) {
                               return tf_model_pool::PoolStateName(s.state);
                             })
      .def_readonly("bytes_in_use", &PoolStats::bytes_in_use)
      .def_readonly("peak_bytes_in_use", &PoolStats::peak_bytes_in_use)
      .def_readonly("bytes_reserved", &PoolStats::bytes_reserved)
      .def_readonly("num_tensors", &PoolStats::num_tensors)
      .def_readonly("largest_free_block", &PoolStats::largest_free_block)
      .def_readonly("fallback_bytes", &PoolStats::fallback_bytes)
      .def_readonly("num_regions", &PoolStats::num_regions)
      .def_readonly("num_mappings", &PoolStats::num_mappings)
      .def_readonly("num_loads", &PoolStats::num_loads);

  py::class_<Totals>(m, "Totals")
      .def_readonly("bytes_in_use", &Totals::bytes_in_use)
      .def_readonly("bytes_reserved", &Totals::bytes_reserved)
      .def_readonly("limit_bytes", &Totals::limit_bytes)
      .def_readonly("num_pools", &Totals::num_pools)
      .def_readonly("num_mappings", &Totals::num_mappings)
      .def_readonly("fallback_loads", &Totals::fallback_loads)
      .def_readonly("fallback_bytes", &Totals::fallback_bytes)
      .def_readonly("trimmed_bytes", &Totals::trimmed_bytes)
      .def_readonly("prepared_bytes", &Totals::prepared_bytes)
      .def_readonly("last_fallback_reason", &Totals::last_fallback_reason);

  py::class_<LoadTotals>(m, "LoadTotals")
      .def_readonly("direct_restores", &LoadTotals::direct_restores)
      .def_readonly("graph_restores", &LoadTotals::graph_restores)
      .def_readonly("cold_versions", &LoadTotals::cold_versions)
      .def_readonly("last_graph_restore_reason",
                    &LoadTotals::last_graph_restore_reason);

  py::class_<Status>(m, "Status")
      .def_readonly("active", &Status::active)
      .def_readonly("reason", &Status::reason);

  // All of them may wait for a lock that a loading thread holds, and that
  // thread may itself want the interpreter: hold no GIL while they run.
  using NoGil = py::call_guard<py::gil_scoped_release>;
  m.def("list_pools", &tf_model_pool::ListPools, NoGil(),
        "All pools of this process.");
  m.def("totals", &tf_model_pool::GetTotals, NoGil(),
        "The sums over all pools.");
  m.def("load_totals", &tf_model_pool::GetLoadTotals, NoGil(),
        "How restores were done.");
  m.def("pool_of", &PoolOfAddress, NoGil(), py::arg("address"),
        "The name of the pool that holds the address, \"\" = none.");
  m.def("trim", &tf_model_pool::Trim, NoGil(),
        "Gives standby memory back; returns the bytes.");
  m.def("status", &tf_model_pool::GetStatus, NoGil(),
        "Whether pools are active, and why not.");
  m.def("settings", &tf_model_pool::EffectiveSettings, NoGil(),
        "The settings in force.");
}
