// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/config.h"

#include <gtest/gtest.h>

namespace tf_model_pool {
namespace bench {
namespace {

JsonValue Model(const char* name) {
  return JsonValue::Object({{"name", name},
                            {"versions", JsonValue::Array({"/m/1", "/m/2"})},
                            {"requests", "/requests"},
                            {"rate", 20}});
}

JsonValue Update(double at_s, std::vector<JsonValue> models) {
  return JsonValue::Object({{"at_s", at_s},
                            {"action", "update"},
                            {"models", JsonValue::Array(std::move(models))}});
}

JsonValue Stall(double at_s) {
  return JsonValue::Object(
      {{"at_s", at_s}, {"action", "stall"}, {"phase", "warm_up"}, {"ms", 50}});
}

JsonValue Minimal() {
  return JsonValue::Object(
      {{"schema", kConfigSchema},
       {"duration_s", 10},
       {"seed", 3},
       {"models", JsonValue::Array({Model("a"), Model("b")})},
       {"load", JsonValue::Object({{"request_threads", 2}})},
       {"server", JsonValue::Object()}});
}

std::string ErrorOf(const JsonValue& json) {
  Config config;
  std::string error;
  const bool parsed = ParseConfig(json, &config, &error);
  EXPECT_EQ(parsed, error.empty());
  EXPECT_EQ(error.find('\n'), std::string::npos);
  return error;
}

Config Parsed(const JsonValue& json) {
  Config config;
  std::string error;
  EXPECT_TRUE(ParseConfig(json, &config, &error)) << error;
  return config;
}

// Minimal with one member of one object replaced.
JsonValue With(const char* object, const char* name, JsonValue value) {
  JsonValue json = Minimal();
  if (object == nullptr) {
    json.Set(name, std::move(value));
  } else {
    JsonValue changed = *json.Find(object);
    changed.Set(name, std::move(value));
    json.Set(object, std::move(changed));
  }
  return json;
}

TEST(ConfigTest, DefaultsAreTensorFlowServings) {
  const Config config = Parsed(Minimal());
  EXPECT_EQ(config.models[0].signature, "serving_default");
  EXPECT_EQ(config.models[0].tags, std::vector<std::string>{"serve"});
  EXPECT_EQ(config.models[0].warmup, "");
  EXPECT_EQ(config.server.num_load_threads, 0);
  EXPECT_EQ(config.server.num_unload_threads, 0);
  EXPECT_EQ(config.server.session_run_load_threadpool_index, -1);
  EXPECT_EQ(config.server.num_request_iterations_for_warmup, 1);
  EXPECT_EQ(config.server.aspired_version_policy,
            VersionPolicy::kAvailabilityPreserving);
  EXPECT_EQ(config.load.arrival, Arrival::kPoisson);
}

TEST(ConfigTest, EveryServerFieldIsRead) {
  JsonValue json = Minimal();
  const JsonValue pool =
      JsonValue::Object({{"num_threads", 3}, {"global_name", "load"}});
  json.Set("server",
           JsonValue::Object({{"num_load_threads", 2},
                              {"num_unload_threads", 1},
                              {"session_inter_op_thread_pool",
                               JsonValue::Array({JsonValue::Object(), pool})},
                              {"session_run_load_threadpool_index", 1},
                              {"intra_op_parallelism_threads", 4},
                              {"inter_op_parallelism_threads", 5},
                              {"aspired_version_policy", "resource_preserving"},
                              {"num_request_iterations_for_warmup", 6},
                              {"run_in_caller_thread", true}}));
  const ServerConfig server = Parsed(json).server;
  EXPECT_EQ(server.num_load_threads, 2);
  EXPECT_EQ(server.num_unload_threads, 1);
  ASSERT_EQ(server.session_inter_op_thread_pool.size(), 2u);
  EXPECT_EQ(server.session_inter_op_thread_pool[1].num_threads, 3);
  EXPECT_EQ(server.session_inter_op_thread_pool[1].global_name, "load");
  EXPECT_EQ(server.session_run_load_threadpool_index, 1);
  EXPECT_EQ(server.intra_op_parallelism_threads, 4);
  EXPECT_EQ(server.inter_op_parallelism_threads, 5);
  EXPECT_EQ(server.aspired_version_policy, VersionPolicy::kResourcePreserving);
  EXPECT_EQ(server.num_request_iterations_for_warmup, 6);
  EXPECT_TRUE(server.run_in_caller_thread);
}

TEST(ConfigTest, TheTimelineIsSortedAndNamesBecomeIndices) {
  const Config config = Parsed(
      With(nullptr, "timeline",
           JsonValue::Array({Update(5, {"b", "a"}), Stall(1), Update(2, {"a"}),
                             JsonValue::Object({{"at_s", 3},
                                                {"action", "burn_stream"},
                                                {"duration_s", 2},
                                                {"bytes", 1000}})})));
  ASSERT_EQ(config.timeline.size(), 4u);
  EXPECT_EQ(config.timeline[0].phase, Phase::kWarmUp);
  EXPECT_EQ(config.timeline[0].ms, 50);
  EXPECT_EQ(config.timeline[1].models, std::vector<int>{0});
  EXPECT_EQ(config.timeline[2].bytes, 1000);
  EXPECT_EQ(config.timeline[3].models, (std::vector<int>{1, 0}));
}

TEST(ConfigTest, ErrorsNameFieldValueAndWhatIsAllowed) {
  EXPECT_EQ(ErrorOf(With("load", "arrival", "uniform")),
            "load.arrival: \"uniform\" is not allowed; expected one of "
            "\"poisson\" \"fixed\"");
  EXPECT_EQ(ErrorOf(With("server", "num_load_threads", -1)),
            "server.num_load_threads: -1 is not allowed; expected a whole "
            "number from 0 to 1024");
  EXPECT_EQ(ErrorOf(With("load", "request_threads", 1.5)),
            "load.request_threads: 1.5 is not allowed; expected a whole "
            "number from 1 to 32767");
  EXPECT_EQ(ErrorOf(With("load", "request_threads", JsonValue())),
            "load.request_threads: missing; expected a whole number from 1 to "
            "32767");
}

TEST(ConfigTest, UnknownFieldsAreErrors) {
  const std::string error = ErrorOf(With("server", "num_load_thread", 1));
  EXPECT_EQ(
      error.rfind("server.num_load_thread: 1 is of no field; expected", 0), 0u)
      << error;
  EXPECT_NE(error.find("num_load_threads"), std::string::npos);
}

TEST(ConfigTest, TheLoadPoolHasToExist) {
  const std::string error =
      ErrorOf(With("server", "session_run_load_threadpool_index", 1));
  EXPECT_EQ(error,
            "server.session_run_load_threadpool_index: 1 is not allowed; "
            "expected a whole number from 0 to 0");
}

TEST(ConfigTest, WrongModelsAreErrors) {
  EXPECT_NE(ErrorOf(With(nullptr, "models",
                         JsonValue::Array({Model("a"), Model("a")}))),
            "");
  EXPECT_NE(ErrorOf(With(nullptr, "models", JsonValue::Array())), "");
  EXPECT_NE(ErrorOf(With(nullptr, "models", "a")), "");
}

TEST(ConfigTest, WrongTimelinesAreErrors) {
  const auto error = [](JsonValue entry) {
    return ErrorOf(With(nullptr, "timeline", JsonValue::Array({entry})));
  };
  EXPECT_EQ(error(Update(1, {"c"})),
            "timeline[0].models: [\"c\"] is not allowed; expected names of "
            "models, each at most once");
  EXPECT_NE(error(Update(1, {"a", "a"})), "");
  EXPECT_NE(error(Update(11, {"a"})), "") << "after the end";
  EXPECT_NE(error(Stall(1)), "") << "no update to hold it in";
}

TEST(ConfigTest, AnotherSchemaIsAnError) {
  EXPECT_EQ(ErrorOf(With(nullptr, "schema", "tf_model_pool.bench.driver/9")),
            "schema: \"tf_model_pool.bench.driver/9\" is not allowed; expected "
            "one of \"tf_model_pool.bench.driver/1\"");
  EXPECT_EQ(ErrorOf(JsonValue::Array()),
            "the configuration: [] is not allowed; expected an object");
}

TEST(JsonValueTest, TextIsJson) {
  const JsonValue value = JsonValue::Object(
      {{"text", "a\"b\\\n\xc3\xa9"},
       {"numbers", JsonValue::Array({1, 0.5, int64_t{1795438282183966854},
                                     JsonValue(1.0 / 0.0)})},
       {"nothing", JsonValue()},
       {"yes", true}});
  EXPECT_EQ(value.ToText(),
            "{\"text\":\"a\\\"b\\\\\\u000a\xc3\xa9\","
            "\"numbers\":[1,0.5,1795438282183966854,null],"
            "\"nothing\":null,\"yes\":true}");
}

}  // namespace
}  // namespace bench
}  // namespace tf_model_pool
