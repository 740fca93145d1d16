// SPDX-License-Identifier: Apache-2.0
//
// The moments at which requests are meant to be sent. They are fixed before
// the run, so nothing that the server does can move them: a slow answer never
// delays the next request (no coordinated omission).

#ifndef TF_ALLOCATOR_BENCH_ARRIVALS_H_
#define TF_ALLOCATOR_BENCH_ARRIVALS_H_

#include <cstdint>
#include <vector>

#include "tf_allocator/bench/config.h"

namespace tf_model_pool {
namespace bench {

struct ScheduledRequest {
  int64_t intended_ns = 0;  // from the driver's zero
  int32_t model = 0;        // index into Config::models
  int32_t number = 0;       // of this model's requests, from 0
};

// All requests of a run, in order of time. Each model's arrivals are drawn from
// its own generator, seeded by Config::seed and its index, so that another
// model's rate does not change them. Fixed arrivals start one interval after
// zero.
std::vector<ScheduledRequest> MakeSchedule(const Config& config);

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_ARRIVALS_H_
