// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/timeline.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace tf_model_pool {
namespace bench {
namespace {

using Kind = TimelineEvent::Kind;

int64_t Nanoseconds(double seconds) {
  return static_cast<int64_t>(std::llround(seconds * 1e9));
}

// Orders events of one moment: a burn ends before the next begins and can pass
// its burner on, and a stall is known before the update that it holds.
int Rank(Kind kind) {
  switch (kind) {
    case Kind::kBurnEnd:
      return 0;
    case Kind::kStall:
      return 1;
    case Kind::kUpdate:
      return 2;
    case Kind::kBurnBegin:
      return 3;
  }
  return 4;
}

}  // namespace

std::vector<TimelineEvent> MakeTimeline(const Config& config) {
  std::vector<TimelineEvent> events;
  for (size_t i = 0; i < config.timeline.size(); ++i) {
    const TimelineEntry& entry = config.timeline[i];
    const int64_t at_ns = Nanoseconds(entry.at_s);
    switch (entry.action) {
      case TimelineEntry::Action::kUpdate:
        events.push_back({at_ns, Kind::kUpdate, i, 0});
        break;
      case TimelineEntry::Action::kStall:
        events.push_back({at_ns, Kind::kStall, i, 0});
        break;
      case TimelineEntry::Action::kBurnCpu:
      case TimelineEntry::Action::kBurnStream: {
        const int64_t end_ns =
            std::min(Nanoseconds(entry.at_s + entry.duration_s),
                     Nanoseconds(config.duration_s));
        if (end_ns <= at_ns) break;  // would end before it began
        events.push_back({at_ns, Kind::kBurnBegin, i, 0});
        events.push_back({end_ns, Kind::kBurnEnd, i, 0});
        break;
      }
    }
  }
  std::stable_sort(events.begin(), events.end(),
                   [](const TimelineEvent& a, const TimelineEvent& b) {
                     return std::make_tuple(a.at_ns, Rank(a.kind)) <
                            std::make_tuple(b.at_ns, Rank(b.kind));
                   });
  // The entry that each burner works on.
  constexpr size_t kNone = static_cast<size_t>(-1);
  std::vector<size_t> burners;
  for (TimelineEvent& event : events) {
    if (event.kind != Kind::kBurnBegin && event.kind != Kind::kBurnEnd) {
      continue;
    }
    const bool begins = event.kind == Kind::kBurnBegin;
    auto burner =
        std::find(burners.begin(), burners.end(), begins ? kNone : event.entry);
    if (burner == burners.end()) {
      burners.push_back(kNone);
      burner = burners.end() - 1;
    }
    *burner = begins ? event.entry : kNone;
    event.burner = static_cast<size_t>(burner - burners.begin());
  }
  return events;
}

size_t BurnersNeeded(const std::vector<TimelineEvent>& events) {
  size_t needed = 0;
  for (const TimelineEvent& event : events) {
    if (event.kind == Kind::kBurnBegin) {
      needed = std::max(needed, event.burner + 1);
    }
  }
  return needed;
}

}  // namespace bench
}  // namespace tf_model_pool
