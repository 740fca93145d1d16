// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/config.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <utility>

namespace tf_model_pool {
namespace bench {
namespace {

// Records hold model, version and thread in 16 bits.
constexpr int kMost = std::numeric_limits<int16_t>::max();
constexpr int kMostCpus = 4096;
// A day: beyond it the schedule, which is made in advance, is the problem.
constexpr double kMostSeconds = 86400;
constexpr double kMostRequests = 1e8;

constexpr Phase kPhases[] = {Phase::kImport, Phase::kRestore, Phase::kInit,
                             Phase::kWarmUp, Phase::kSwitch,  Phase::kDrain,
                             Phase::kUnload};

std::string Shown(const JsonValue& value) {
  constexpr size_t kLongest = 80;
  const std::string text = value.ToText();
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "...";
}

// Reads the members of one object. The first problem is kept and ends all.
class Reader {
 public:
  Reader(const JsonValue& json, std::string path, std::string* error)
      : json_(json), path_(std::move(path)), error_(error) {
    if (json.kind() != JsonValue::Kind::kObject) {
      Fail(path_.empty() ? "the configuration" : path_, json, "an object");
    }
  }

  bool ok() const { return error_->empty(); }

  std::string Path(const std::string& name) const {
    return path_.empty() ? name : path_ + "." + name;
  }

  void Fail(const std::string& field, const JsonValue& value,
            const std::string& allowed) {
    if (ok()) {
      *error_ =
          field + ": " + Shown(value) + " is not allowed; expected " + allowed;
    }
  }

  void FailAt(const std::string& name, const std::string& allowed) {
    const JsonValue* value = json_.Find(name);
    Fail(Path(name), value == nullptr ? JsonValue() : *value, allowed);
  }

  // The member, or nullptr if it is absent or null. It counts as known.
  const JsonValue* Optional(const std::string& name) {
    known_.insert(name);
    const JsonValue* value = json_.Find(name);
    return value == nullptr || value->is_null() ? nullptr : value;
  }

  const JsonValue* Required(const std::string& name,
                            const std::string& allowed) {
    const JsonValue* value = Optional(name);
    if (value == nullptr && ok()) {
      *error_ = Path(name) + ": missing; expected " + allowed;
    }
    return value;
  }

  // Leaves `result` as it is if the member is absent.
  void Number(const std::string& name, double lowest, double highest,
              bool required, double* result) {
    const std::string allowed =
        "a number from " + Text(lowest) + " to " + Text(highest);
    const JsonValue* value =
        required ? Required(name, allowed) : Optional(name);
    if (value == nullptr) return;
    if (value->kind() != JsonValue::Kind::kNumber ||
        !(value->number() >= lowest && value->number() <= highest)) {
      return Fail(Path(name), *value, allowed);
    }
    *result = value->number();
  }

  template <typename Integer>
  void Whole(const std::string& name, double lowest, double highest,
             bool required, Integer* result) {
    const std::string allowed =
        "a whole number from " + Text(lowest) + " to " + Text(highest);
    const JsonValue* value =
        required ? Required(name, allowed) : Optional(name);
    if (value == nullptr) return;
    if (!IsWhole(*value, lowest, highest)) {
      return Fail(Path(name), *value, allowed);
    }
    *result = static_cast<Integer>(value->number());
  }

  void String(const std::string& name, bool required, std::string* result) {
    const std::string allowed = "a string that is not empty";
    const JsonValue* value =
        required ? Required(name, allowed) : Optional(name);
    if (value == nullptr) return;
    if (value->kind() != JsonValue::Kind::kString || value->string().empty()) {
      return Fail(Path(name), *value, allowed);
    }
    *result = value->string();
  }

  void Boolean(const std::string& name, bool* result) {
    const JsonValue* value = Optional(name);
    if (value == nullptr) return;
    if (value->kind() != JsonValue::Kind::kBool) {
      return Fail(Path(name), *value, "true or false");
    }
    *result = value->boolean();
  }

  void Strings(const std::string& name, bool required,
               std::vector<std::string>* result) {
    const std::string allowed = "an array of strings, at least one";
    const JsonValue* value =
        required ? Required(name, allowed) : Optional(name);
    if (value == nullptr) return;
    std::vector<std::string> strings;
    for (const JsonValue& item : value->items()) {
      if (item.kind() != JsonValue::Kind::kString || item.string().empty()) {
        return Fail(Path(name), *value, allowed);
      }
      strings.push_back(item.string());
    }
    if (strings.empty() || strings.size() > kMost) {
      return Fail(Path(name), *value, allowed);
    }
    *result = std::move(strings);
  }

  void Cpus(const std::string& name, std::vector<int>* result) {
    const std::string allowed = "null or an array of CPU numbers, at least one";
    const JsonValue* value = Optional(name);
    if (value == nullptr) return;
    std::vector<int> cpus;
    for (const JsonValue& item : value->items()) {
      if (!IsWhole(item, 0, kMostCpus - 1)) {
        return Fail(Path(name), *value, allowed);
      }
      cpus.push_back(static_cast<int>(item.number()));
    }
    if (cpus.empty()) return Fail(Path(name), *value, allowed);
    *result = std::move(cpus);
  }

  // One of `names`; its index goes to `index`.
  void OneOf(const std::string& name, const std::vector<std::string>& names,
             bool required, size_t* index) {
    std::string allowed = "one of";
    for (const std::string& each : names) allowed += " \"" + each + "\"";
    const JsonValue* value =
        required ? Required(name, allowed) : Optional(name);
    if (value == nullptr) return;
    const auto found = std::find(names.begin(), names.end(), value->string());
    if (value->kind() != JsonValue::Kind::kString || found == names.end()) {
      return Fail(Path(name), *value, allowed);
    }
    *index = static_cast<size_t>(found - names.begin());
  }

  void Objects(const std::string& name, bool required,
               const std::function<void(Reader*)>& read) {
    const std::string allowed = "an array of objects";
    const JsonValue* value =
        required ? Required(name, allowed) : Optional(name);
    if (value == nullptr) return;
    if (value->kind() != JsonValue::Kind::kArray) {
      return Fail(Path(name), *value, allowed);
    }
    for (size_t i = 0; i < value->items().size() && ok(); ++i) {
      Reader reader(value->items()[i],
                    Path(name) + "[" + std::to_string(i) + "]", error_);
      if (!ok()) return;
      read(&reader);
      reader.CheckUnknown();
    }
  }

  void Object(const std::string& name,
              const std::function<void(Reader*)>& read) {
    const JsonValue* value = Required(name, "an object");
    if (value == nullptr) return;
    Reader reader(*value, Path(name), error_);
    if (!ok()) return;
    read(&reader);
    reader.CheckUnknown();
  }

  // A misspelt field would otherwise be a default.
  void CheckUnknown() {
    for (const JsonValue::Member& member : json_.members()) {
      if (known_.count(member.first) != 0 || !ok()) continue;
      std::string known;
      for (const std::string& name : known_) {
        known += (known.empty() ? "" : ", ") + name;
      }
      *error_ = Path(member.first) + ": " + Shown(member.second) +
                " is of no field; expected " + known;
    }
  }

 private:
  static bool IsWhole(const JsonValue& value, double lowest, double highest) {
    return value.kind() == JsonValue::Kind::kNumber &&
           value.number() == std::floor(value.number()) &&
           value.number() >= lowest && value.number() <= highest;
  }

  static std::string Text(double number) { return JsonValue(number).ToText(); }

  const JsonValue& json_;
  const std::string path_;
  std::string* const error_;
  std::set<std::string> known_;
};

void ReadModel(Reader* reader, Config* config) {
  ModelConfig model;
  reader->String("name", true, &model.name);
  for (const ModelConfig& other : config->models) {
    if (other.name == model.name) {
      reader->FailAt("name", "a name that no other model has");
    }
  }
  reader->Strings("versions", true, &model.versions);
  reader->Strings("tags", false, &model.tags);
  reader->String("signature", false, &model.signature);
  reader->String("requests", true, &model.requests);
  reader->String("warmup", false, &model.warmup);
  reader->Number("rate", 0, 1e6, true, &model.rate);
  config->models.push_back(std::move(model));
}

void ReadLoad(Reader* reader, LoadConfig* load) {
  size_t arrival = 0;
  reader->OneOf("arrival", {"poisson", "fixed"}, false, &arrival);
  load->arrival = arrival == 0 ? Arrival::kPoisson : Arrival::kFixed;
  reader->Whole("request_threads", 1, kMost, true, &load->request_threads);
  reader->Cpus("generator_cpus", &load->generator_cpus);
  reader->Cpus("server_cpus", &load->server_cpus);
  reader->Number("ignore_first_s", 0, kMostSeconds, false,
                 &load->ignore_first_s);
}

void ReadServer(Reader* reader, ServerConfig* server) {
  reader->Whole("num_load_threads", 0, 1024, false, &server->num_load_threads);
  reader->Whole("num_unload_threads", 0, 1024, false,
                &server->num_unload_threads);
  reader->Objects("session_inter_op_thread_pool", false, [&](Reader* pool) {
    ThreadPoolConfig config;
    pool->Whole("num_threads", 0, kMostCpus, false, &config.num_threads);
    const JsonValue* name = pool->Optional("global_name");
    if (name != nullptr) {
      if (name->kind() != JsonValue::Kind::kString) {
        pool->FailAt("global_name", "a string");
      }
      config.global_name = name->string();
    }
    server->session_inter_op_thread_pool.push_back(config);
  });
  // Without pools of its own a session has one, TensorFlow's.
  const size_t pools =
      std::max<size_t>(1, server->session_inter_op_thread_pool.size());
  reader->Whole("session_run_load_threadpool_index", 0,
                static_cast<double>(pools - 1), false,
                &server->session_run_load_threadpool_index);
  reader->Whole("intra_op_parallelism_threads", 0, kMostCpus, false,
                &server->intra_op_parallelism_threads);
  reader->Whole("inter_op_parallelism_threads", 0, kMostCpus, false,
                &server->inter_op_parallelism_threads);
  size_t policy = 0;
  reader->OneOf("aspired_version_policy",
                {"availability_preserving", "resource_preserving"}, false,
                &policy);
  server->aspired_version_policy = policy == 0
                                       ? VersionPolicy::kAvailabilityPreserving
                                       : VersionPolicy::kResourcePreserving;
  reader->Whole("num_request_iterations_for_warmup", 0, 1e6, false,
                &server->num_request_iterations_for_warmup);
  reader->Boolean("run_in_caller_thread", &server->run_in_caller_thread);
}

void ReadEntry(Reader* reader, Config* config) {
  using Action = TimelineEntry::Action;
  TimelineEntry entry;
  reader->Number("at_s", 0, config->duration_s, true, &entry.at_s);
  size_t action = 0;
  reader->OneOf("action", {"update", "burn_cpu", "burn_stream", "stall"}, true,
                &action);
  entry.action = static_cast<Action>(action);
  if (!reader->ok()) return;
  if (entry.action == Action::kUpdate) {
    std::vector<std::string> names;
    reader->Strings("models", true, &names);
    for (const std::string& name : names) {
      size_t model = 0;
      while (model < config->models.size() &&
             config->models[model].name != name) {
        ++model;
      }
      const bool twice =
          std::find(entry.models.begin(), entry.models.end(),
                    static_cast<int>(model)) != entry.models.end();
      if (model == config->models.size() || twice) {
        return reader->FailAt("models", "names of models, each at most once");
      }
      entry.models.push_back(static_cast<int>(model));
    }
  } else if (entry.action == Action::kStall) {
    std::vector<std::string> names;
    for (const Phase phase : kPhases) names.push_back(PhaseName(phase));
    size_t phase = 0;
    reader->OneOf("phase", names, true, &phase);
    entry.phase = kPhases[phase];
    reader->Number("ms", 0, 1e6, true, &entry.ms);
  } else {
    reader->Number("duration_s", 0, kMostSeconds, true, &entry.duration_s);
    if (entry.action == Action::kBurnStream) {
      reader->Whole("bytes", 1, 1e15, true, &entry.bytes);
    }
  }
  config->timeline.push_back(std::move(entry));
}

void CheckTimeline(Reader* reader, std::vector<TimelineEntry>* timeline) {
  std::stable_sort(
      timeline->begin(), timeline->end(),
      [](const auto& a, const auto& b) { return a.at_s < b.at_s; });
  bool stall = false;
  for (const TimelineEntry& entry : *timeline) {
    if (entry.action == TimelineEntry::Action::kStall) stall = true;
    if (entry.action == TimelineEntry::Action::kUpdate) stall = false;
  }
  if (stall) {
    reader->FailAt("timeline", "an update after each stall, to hold it in");
  }
}

}  // namespace

const char* PhaseName(Phase phase) {
  switch (phase) {
    case Phase::kImport:
      return "import";
    case Phase::kRestore:
      return "restore";
    case Phase::kInit:
      return "init";
    case Phase::kWarmUp:
      return "warm_up";
    case Phase::kSwitch:
      return "switch";
    case Phase::kDrain:
      return "drain";
    case Phase::kUnload:
      return "unload";
  }
  return "";
}

bool ParseConfig(const JsonValue& json, Config* config, std::string* error) {
  error->clear();
  *config = Config();
  Reader reader(json, "", error);
  if (!reader.ok()) return false;
  size_t schema = 0;
  reader.OneOf("schema", {kConfigSchema}, true, &schema);
  reader.Number("duration_s", 0.001, kMostSeconds, true, &config->duration_s);
  reader.Whole("seed", 0, 9007199254740991.0, true, &config->seed);
  reader.Objects("models", true,
                 [&](Reader* model) { ReadModel(model, config); });
  if (config->models.empty() || config->models.size() > kMost) {
    reader.FailAt("models", "an array of models, at least one");
  }
  reader.Object("load", [&](Reader* load) { ReadLoad(load, &config->load); });
  reader.Object("server",
                [&](Reader* server) { ReadServer(server, &config->server); });
  reader.Objects("timeline", false,
                 [&](Reader* entry) { ReadEntry(entry, config); });
  reader.Number("slow_ms", 0, 1e9, false, &config->slow_ms);
  reader.CheckUnknown();
  if (!reader.ok()) return false;
  double requests = 0;
  for (const ModelConfig& model : config->models) {
    requests += model.rate * config->duration_s;
  }
  if (requests > kMostRequests) {
    reader.FailAt("duration_s", "at most " + JsonValue(kMostRequests).ToText() +
                                    " requests in a run");
  }
  CheckTimeline(&reader, &config->timeline);
  return reader.ok();
}

}  // namespace bench
}  // namespace tf_model_pool
