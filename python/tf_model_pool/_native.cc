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
#include "tf_allocator/report/fields.h"
#include "tf_allocator/report/introspection.h"

namespace py = pybind11;

namespace {

std::string PoolOfAddress(std::uintptr_t address) {
  return tf_model_pool::PoolOf(reinterpret_cast<const void*>(address));
}

// Fields in Python's types: a number, a string of one letter, a word.
template <typename Field>
Field ToPython(Field field) {
  return field;
}
int ToPython(std::uint8_t id) { return id; }
std::string ToPython(char letter) { return std::string(1, letter); }
std::string ToPython(tf_model_pool::PoolState state) {
  return tf_model_pool::PoolStateName(state);
}

template <typename Record>
void DefineRecord(py::module_& m, const char* name) {
  py::class_<Record> defined(m, name);
  tf_model_pool::VisitFields<Record>([&](const char* field, auto member) {
    defined.def_property_readonly(field, [member](const Record& record) {
      return ToPython(record.*member);
    });
  });
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  using tf_model_pool::LoadTotals;
  using tf_model_pool::PoolStats;
  using tf_model_pool::Status;
  using tf_model_pool::Totals;

  m.doc() = "Model pools of this process. Sizes are bytes.";

  DefineRecord<PoolStats>(m, "PoolStats");
  DefineRecord<Totals>(m, "Totals");
  DefineRecord<LoadTotals>(m, "LoadTotals");

  py::class_<Status>(m, "Status")
      .def_property_readonly("active", &Status::active)
      .def_property_readonly(
          "code",
          [](const Status& s) { return tf_model_pool::StatusCodeName(s.code); })
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
