// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/device/settings.h"

#include <cstddef>
#include <utility>

namespace tf_model_pool {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
// A year: a longer wait is a typing error.
constexpr int64_t kMaxRetainSeconds = 366LL * 24 * 3600;

// One variable.
struct Row {
  const char* name;
  const char* help;
  std::string allowed;
  // Returns false, and leaves the settings alone, if the text is not allowed.
  std::function<bool(const std::string& text, Settings*)> parse;
  // Returns a text that parses back to the same; "" = unset.
  std::function<std::string(const Settings&)> print;
};

// Digits only: no sign, no space, no unit.
bool ParseWholeNumber(const std::string& text, int64_t low, int64_t high,
                      int64_t* out) {
  if (text.empty() || text.size() > 18) return false;
  int64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
    value = value * 10 + (c - '0');
  }
  if (value < low || value > high) return false;
  *out = value;
  return true;
}

// One word for each value of the field.
template <typename Value, typename Of>
Row Words(const char* name, Value Of::* field,
          std::vector<std::pair<std::string, Value>> words, const char* help) {
  std::string allowed;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) allowed += i + 1 < words.size() ? ", " : " or ";
    allowed += '"' + words[i].first + '"';
  }
  return {name, help, std::move(allowed),
          [words, field](const std::string& text, Settings* settings) {
            for (const auto& [word, value] : words) {
              if (text != word) continue;
              settings->*field = value;
              return true;
            }
            return false;
          },
          [words, field](const Settings& settings) {
            for (const auto& [word, value] : words) {
              if (settings.*field == value) return word;
            }
            return std::string();
          }};
}

template <typename Of>
Row Switch(const char* name, bool Of::* field, const char* help) {
  return Words<bool>(name, field, {{"on", true}, {"off", false}}, help);
}

struct Range {
  int64_t low;
  int64_t high;
  const char* unit = "";  // " of MiB", for people
  int64_t scale = 1;      // the field's units in one of the text's
  bool limits = false;    // unset, the field is 0: there is no limit
};

template <typename Value, typename Of>
Row Number(const char* name, Value Of::* field, Range range, const char* help) {
  std::string allowed = std::string("a whole number") + range.unit + " from " +
                        std::to_string(range.low) + " to " +
                        std::to_string(range.high);
  if (range.limits) allowed += " (leave it unset for no limit)";
  return {name, help, std::move(allowed),
          [range, field](const std::string& text, Settings* settings) {
            int64_t number = 0;
            if (!ParseWholeNumber(text, range.low, range.high, &number)) {
              return false;
            }
            settings->*field = static_cast<Value>(number * range.scale);
            return true;
          },
          [range, field](const Settings& settings) {
            const Value value = settings.*field;
            if (range.limits && value == 0) return std::string();
            return std::to_string(value / static_cast<Value>(range.scale));
          }};
}

Row Retain(const char* name, const char* help) {
  return {name, help,
          "\"standby\", \"release\" or a whole number of seconds from 0 to " +
              std::to_string(kMaxRetainSeconds),
          [](const std::string& text, Settings* settings) {
            if (text == "standby") {
              settings->retain = Settings::Retain::kStandby;
            } else if (text == "release") {
              settings->retain = Settings::Retain::kRelease;
            } else if (ParseWholeNumber(text, 0, kMaxRetainSeconds,
                                        &settings->retain_seconds)) {
              settings->retain = Settings::Retain::kSeconds;
            } else {
              return false;
            }
            return true;
          },
          [](const Settings& settings) -> std::string {
            switch (settings.retain) {
              case Settings::Retain::kStandby:
                return "standby";
              case Settings::Retain::kRelease:
                return "release";
              case Settings::Retain::kSeconds:
                break;
            }
            return std::to_string(settings.retain_seconds);
          }};
}

// Slots are named A to Z.
constexpr Range kSlots = {1, 26};
// 64 TiB: past any machine, and far from overflowing a count of bytes.
constexpr Range kLimit = {1, int64_t{1} << 26, " of MiB", kMiB, true};
// 1 TiB a second: more than memory gives.
constexpr Range kReadRate = {1, int64_t{1} << 20, " of MiB a second", kMiB,
                             true};
constexpr Range kPrepareRuns = {0, 256};

const std::vector<Row>& Rows() {
  using Priority = Settings::LoadPriority;
  static const auto* const rows = new std::vector<Row>{
      Switch("TF_MODEL_POOL", &Settings::enabled,
             "`off` restores stock behaviour: no pool is made, every tensor "
             "comes from the device's allocator"),
      Number("TF_MODEL_POOL_SLOTS", &Settings::slots, kSlots,
             "versions of one model that can lie in pools at the same time"),
      Number("TF_MODEL_POOL_LIMIT_MB", &Settings::limit_bytes, kLimit,
             "memory of all pools together, standby included"),
      Retain("TF_MODEL_POOL_RETAIN",
             "what happens to memory that nothing lies in: as much as the "
             "largest version alive needs is kept for the next load of "
             "whichever model, all is given back at once, or after that many "
             "seconds; by a background thread, in slices"),
      Switch("TF_MODEL_POOL_HUGE_PAGES", &Settings::huge_pages,
             "ask for transparent huge pages (`madvise`); `off` leaves it to "
             "the system"),
      Switch("TF_MODEL_POOL_PREFAULT", &Settings::prefault,
             "take page faults of new pool memory on the loading thread, "
             "before the first tensor"),
      Switch("TF_MODEL_POOL_PREPARE", &Settings::prepare,
             "keep as much on standby as the largest version alive needs, from "
             "the first load on, so that the first update maps nothing either; "
             "`on` needs `TF_MODEL_POOL_RETAIN=standby`"),
      Switch("TF_MODEL_POOL_DIRECT_RESTORE", &Settings::direct_restore,
             "C++ `LoadSavedModel`: set the variables instead of running the "
             "restore op, if it does no more than that"),
      Number("TF_MODEL_POOL_READ_MB_PER_S", &Settings::read_bytes_per_second,
             kReadRate,
             "C++ `LoadSavedModel`: what all loads of the process together "
             "read of checkpoints in a second"),
      Switch("TF_MODEL_POOL_DROP_CACHE", &Settings::drop_cache,
             "C++ `LoadSavedModel`: let the page cache forget the checkpoint's "
             "data files as they are read"),
      Words<Priority>(
          "TF_MODEL_POOL_LOAD_PRIORITY", &Settings::load_priority,
          {{"auto", Priority::kAuto}, {"normal", Priority::kNormal}},
          "C++ `LoadSavedModel`: `auto` pauses again and again "
          "while models of the process serve, so that requests get "
          "their CPUs; `normal` does not"),
      Number("TF_MODEL_POOL_PREPARE_RUNS", &Settings::prepare_runs,
             kPrepareRuns,
             "C++ `LoadSavedModel`: for how many signatures and other sets of "
             "inputs and outputs a load makes the executors; 0 leaves that to "
             "the first requests"),
  };
  return *rows;
}

std::string Malformed(const std::string& name, const std::string& value,
                      const std::string& allowed) {
  return name + "=\"" + value + "\" is not valid: allowed is " + allowed;
}

}  // namespace

std::string Settings::Parse(const Lookup& lookup, Settings* out) {
  Settings parsed;
  for (const Row& row : Rows()) {
    const char* value = lookup(row.name);
    if (value != nullptr && !row.parse(value, &parsed)) {
      return Malformed(row.name, value, row.allowed);
    }
  }
  if (parsed.prepare && parsed.retain != Retain::kStandby) {
    return Malformed("TF_MODEL_POOL_PREPARE", "on",
                     "\"off\" if TF_MODEL_POOL_RETAIN is not \"standby\": "
                     "what is prepared would be given back");
  }
  *out = parsed;
  return "";
}

std::map<std::string, std::string> Settings::ToMap() const {
  std::map<std::string, std::string> map;
  for (const Row& row : Rows()) map[row.name] = row.print(*this);
  return map;
}

std::vector<Settings::Description> Settings::Describe() {
  std::vector<Description> described;
  for (const Row& row : Rows()) {
    described.push_back({row.name, row.allowed, row.help});
  }
  return described;
}

}  // namespace tf_model_pool
