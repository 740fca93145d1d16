// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/arrivals.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <tuple>

namespace tf_model_pool {
namespace bench {
namespace {

constexpr double kNanoseconds = 1e9;

// The C++ library's distributions may differ from one library to another; the
// engine's bits may not.
double UniformAboveZero(std::mt19937_64* engine) {
  constexpr double kSteps = 9007199254740992.0;  // 2^53
  return (static_cast<double>((*engine)() >> 11) + 1) / kSteps;
}

void AddArrivals(const Config& config, int32_t model,
                 std::vector<ScheduledRequest>* schedule) {
  const double rate = config.models[static_cast<size_t>(model)].rate;
  if (rate <= 0) return;
  std::seed_seq seed{static_cast<uint32_t>(config.seed),
                     static_cast<uint32_t>(config.seed >> 32),
                     static_cast<uint32_t>(model)};
  std::mt19937_64 engine(seed);
  double at_s = 0;
  for (int32_t number = 0;; ++number) {
    if (config.load.arrival == Arrival::kFixed) {
      // A product, not a sum, so that no error adds up.
      at_s = (number + 1) / rate;
    } else {
      at_s += -std::log(UniformAboveZero(&engine)) / rate;
    }
    if (at_s > config.duration_s) return;
    schedule->push_back(
        {static_cast<int64_t>(std::llround(at_s * kNanoseconds)), model,
         number});
  }
}

}  // namespace

std::vector<ScheduledRequest> MakeSchedule(const Config& config) {
  std::vector<ScheduledRequest> schedule;
  for (size_t model = 0; model < config.models.size(); ++model) {
    AddArrivals(config, static_cast<int32_t>(model), &schedule);
  }
  std::sort(schedule.begin(), schedule.end(), [](const auto& a, const auto& b) {
    return std::tie(a.intended_ns, a.model, a.number) <
           std::tie(b.intended_ns, b.model, b.number);
  });
  return schedule;
}

}  // namespace bench
}  // namespace tf_model_pool
