// SPDX-License-Identifier: Apache-2.0
//
// Events of a run besides its requests, as moments in order.

#ifndef TF_ALLOCATOR_BENCH_TIMELINE_H_
#define TF_ALLOCATOR_BENCH_TIMELINE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tf_allocator/bench/config.h"

namespace tf_model_pool {
namespace bench {

struct TimelineEvent {
  enum class Kind { kUpdate, kStall, kBurnBegin, kBurnEnd };
  int64_t at_ns = 0;  // from the driver's zero
  Kind kind = Kind::kUpdate;
  size_t entry = 0;   // index into Config::timeline
  size_t burner = 0;  // of a burn: which burner does it
};

// A stall stands before an update of the same moment; burns end with the run
// at the latest.
std::vector<TimelineEvent> MakeTimeline(const Config& config);

// The most burns that run at the same time.
size_t BurnersNeeded(const std::vector<TimelineEvent>& events);

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_TIMELINE_H_
