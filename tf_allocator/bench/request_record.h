// SPDX-License-Identifier: Apache-2.0
//
// One request as requests.bin holds it: little-endian, without padding.

#ifndef TF_ALLOCATOR_BENCH_REQUEST_RECORD_H_
#define TF_ALLOCATOR_BENCH_REQUEST_RECORD_H_

#include <cstddef>
#include <cstdint>

namespace tf_model_pool {
namespace bench {

// Times are from the driver's zero; latency is end_ns - intended_ns. Counters
// are what the thread that served the request added to them meanwhile.
struct RequestRecord {
  // Not served (yet). Never in a file.
  static constexpr int16_t kPending = -1;
  // absl::StatusCode::kNotFound: no version was there, as TensorFlow Serving
  // answers.
  static constexpr int16_t kNoVersion = 5;

  int64_t intended_ns = 0;
  int64_t start_ns = 0;  // a thread took it
  int64_t end_ns = 0;
  int64_t runqueue_ns = 0;
  int32_t minor_faults = 0;
  int32_t major_faults = 0;
  int32_t voluntary_switches = 0;
  int32_t involuntary_switches = 0;
  int16_t model = 0;
  int16_t version = -1;  // index into the model's versions; -1 = none served it
  int16_t thread = 0;
  int16_t status = kPending;  // 0 ok, else an absl::StatusCode
  double checksum = 0;        // sum over all elements of all outputs
};

static_assert(sizeof(RequestRecord) == 64, "readers rely on the layout");
static_assert(offsetof(RequestRecord, minor_faults) == 32, "");
static_assert(offsetof(RequestRecord, model) == 48, "");
static_assert(offsetof(RequestRecord, checksum) == 56, "");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "as the file is");

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_REQUEST_RECORD_H_
