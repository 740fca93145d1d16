// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/device/settings.h"

#include <cstddef>
#include <map>
#include <string>

#include "gtest/gtest.h"
#include "tf_allocator/pool/control_group.h"

namespace tf_model_pool {
namespace {

using Variables = std::map<std::string, std::string>;

std::string Parse(const Variables& variables, Settings* out) {
  return Settings::Parse(
      [&](const char* name) -> const char* {
        const auto it = variables.find(name);
        return it == variables.end() ? nullptr : it->second.c_str();
      },
      out);
}

Settings Parsed(const Variables& variables) {
  Settings settings;
  EXPECT_EQ(Parse(variables, &settings), "");
  return settings;
}

TEST(SettingsTest, DefaultsApplyWhereNothingIsSet) {
  const Settings settings = Parsed({});
  EXPECT_TRUE(settings.enabled);
  EXPECT_EQ(settings.slots, 4);
  EXPECT_EQ(settings.limit_bytes, 0u);
  EXPECT_EQ(settings.retain, Settings::Retain::kStandby);
  EXPECT_TRUE(settings.huge_pages);
  EXPECT_TRUE(settings.prefault);
  EXPECT_FALSE(settings.prepare);
  EXPECT_EQ(settings.load_priority, Settings::LoadPriority::kAuto);
  EXPECT_TRUE(settings.direct_restore);
  EXPECT_EQ(settings.read_bytes_per_second, 0u);
  EXPECT_FALSE(settings.drop_cache);
}

TEST(SettingsTest, SwitchesAreReadEachFromItsOwnVariable) {
  EXPECT_FALSE(Parsed({{"TF_MODEL_POOL", "off"}}).enabled);
  EXPECT_TRUE(Parsed({{"TF_MODEL_POOL", "on"}}).enabled);
  EXPECT_TRUE(Parsed({{"TF_MODEL_POOL", "off"}}).huge_pages);
  EXPECT_FALSE(Parsed({{"TF_MODEL_POOL_HUGE_PAGES", "off"}}).huge_pages);
  EXPECT_TRUE(Parsed({{"TF_MODEL_POOL_HUGE_PAGES", "off"}}).prefault);
  EXPECT_FALSE(Parsed({{"TF_MODEL_POOL_PREFAULT", "off"}}).prefault);
  EXPECT_TRUE(Parsed({{"TF_MODEL_POOL_PREFAULT", "off"}}).enabled);
  EXPECT_FALSE(
      Parsed({{"TF_MODEL_POOL_DIRECT_RESTORE", "off"}}).direct_restore);
  EXPECT_TRUE(Parsed({{"TF_MODEL_POOL_DIRECT_RESTORE", "off"}}).prefault);
  EXPECT_TRUE(Parsed({{"TF_MODEL_POOL_DROP_CACHE", "on"}}).drop_cache);
  EXPECT_FALSE(Parsed({{"TF_MODEL_POOL_DROP_CACHE", "off"}}).drop_cache);
  EXPECT_TRUE(Parsed({{"TF_MODEL_POOL_PREPARE", "on"}}).prepare);
  EXPECT_FALSE(Parsed({{"TF_MODEL_POOL_PREPARE", "off"}}).prepare);
}

TEST(SettingsTest, LoadPriorityIsAWord) {
  const auto read = [](const char* word) {
    return Parsed({{"TF_MODEL_POOL_LOAD_PRIORITY", word}}).load_priority;
  };
  EXPECT_EQ(read("auto"), Settings::LoadPriority::kAuto);
  EXPECT_EQ(read("normal"), Settings::LoadPriority::kNormal);
}

TEST(SettingsTest, PreparedRunsAreReadWithinTheirBounds) {
  EXPECT_EQ(Parsed({{"TF_MODEL_POOL_PREPARE_RUNS", "0"}}).prepare_runs, 0);
  EXPECT_EQ(Parsed({{"TF_MODEL_POOL_PREPARE_RUNS", "256"}}).prepare_runs, 256);
}

TEST(SettingsTest, SlotsAreReadWithinTheirBounds) {
  EXPECT_EQ(Parsed({{"TF_MODEL_POOL_SLOTS", "1"}}).slots, 1);
  EXPECT_EQ(Parsed({{"TF_MODEL_POOL_SLOTS", "26"}}).slots, 26);
}

TEST(SettingsTest, LimitIsReadInMebibytes) {
  EXPECT_EQ(Parsed({{"TF_MODEL_POOL_LIMIT_MB", "1"}}).limit_bytes,
            size_t{1} << 20);
  EXPECT_EQ(Parsed({{"TF_MODEL_POOL_LIMIT_MB", "67108864"}}).limit_bytes,
            size_t{1} << 46);
}

TEST(SettingsTest, ReadLimitIsReadInMebibytesPerSecond) {
  EXPECT_EQ(
      Parsed({{"TF_MODEL_POOL_READ_MB_PER_S", "1"}}).read_bytes_per_second,
      uint64_t{1} << 20);
  EXPECT_EQ(Parsed({{"TF_MODEL_POOL_READ_MB_PER_S", "1048576"}})
                .read_bytes_per_second,
            uint64_t{1} << 40);
}

TEST(SettingsTest, RetainIsAWordOrSeconds) {
  EXPECT_EQ(Parsed({{"TF_MODEL_POOL_RETAIN", "standby"}}).retain,
            Settings::Retain::kStandby);
  EXPECT_EQ(Parsed({{"TF_MODEL_POOL_RETAIN", "release"}}).retain,
            Settings::Retain::kRelease);
  const Settings seconds = Parsed({{"TF_MODEL_POOL_RETAIN", "90"}});
  EXPECT_EQ(seconds.retain, Settings::Retain::kSeconds);
  EXPECT_EQ(seconds.retain_seconds, 90);
  EXPECT_EQ(Parsed({{"TF_MODEL_POOL_RETAIN", "0"}}).retain,
            Settings::Retain::kSeconds);
}

TEST(SettingsTest, WhatIsInForceParsesBackToItself) {
  const Variables all = {{"TF_MODEL_POOL", "off"},
                         {"TF_MODEL_POOL_SLOTS", "7"},
                         {"TF_MODEL_POOL_LIMIT_MB", "4096"},
                         {"TF_MODEL_POOL_RETAIN", "30"},
                         {"TF_MODEL_POOL_HUGE_PAGES", "on"},
                         {"TF_MODEL_POOL_PREFAULT", "off"},
                         {"TF_MODEL_POOL_PREPARE", "off"},
                         {"TF_MODEL_POOL_LOAD_PRIORITY", "normal"},
                         {"TF_MODEL_POOL_DIRECT_RESTORE", "off"},
                         {"TF_MODEL_POOL_PREPARE_RUNS", "0"},
                         {"TF_MODEL_POOL_READ_MB_PER_S", "200"},
                         {"TF_MODEL_POOL_DROP_CACHE", "on"}};
  EXPECT_EQ(Parsed(all).ToMap(), all);
  EXPECT_EQ(Parsed({}).ToMap().at("TF_MODEL_POOL_RETAIN"), "standby");
  EXPECT_EQ(Parsed({{"TF_MODEL_POOL_PREPARE", "on"}})
                .ToMap()
                .at("TF_MODEL_POOL_PREPARE"),
            "on");
  EXPECT_EQ(Parsed({{"TF_MODEL_POOL_RETAIN", "release"}})
                .ToMap()
                .at("TF_MODEL_POOL_RETAIN"),
            "release");
  // No value of the variable means "no limit".
  EXPECT_EQ(Parsed({}).ToMap().at("TF_MODEL_POOL_LIMIT_MB"), "");
  EXPECT_EQ(Parsed({}).ToMap().at("TF_MODEL_POOL_READ_MB_PER_S"), "");
}

TEST(SettingsTest, TheReferenceHasTheTableOfThem) {
  const std::string reference = ReadText(TF_MODEL_POOL_REFERENCE);
  ASSERT_NE(reference, "") << "cannot read " << TF_MODEL_POOL_REFERENCE;
  const Variables defaults = Settings().ToMap();
  std::string table =
      "| variable | default | allowed | meaning |\n|---|---|---|---|\n";
  for (const Settings::Description& row : Settings::Describe()) {
    const std::string& value = defaults.at(row.name);
    table += "| `" + row.name + "` | " +
             (value.empty() ? "no limit" : "`" + value + "`") + " | " +
             row.allowed + " | " + row.help + " |\n";
  }
  EXPECT_NE(reference.find(table), std::string::npos)
      << "docs/reference.md has another table of settings than this one, which "
         "follows from settings.cc:\n"
      << table;
}

TEST(SettingsTest, FirstOfSeveralErrorsIsReported) {
  Settings settings;
  const std::string error = Parse(
      {{"TF_MODEL_POOL", "maybe"}, {"TF_MODEL_POOL_SLOTS", "no"}}, &settings);
  EXPECT_NE(error.find("TF_MODEL_POOL=\"maybe\""), std::string::npos) << error;
  EXPECT_EQ(error.find("SLOTS"), std::string::npos) << error;
}

TEST(SettingsTest, MemoryThatWouldBeGivenBackIsNotPrepared) {
  for (const char* retain : {"release", "60"}) {
    Settings settings;
    const std::string error = Parse(
        {{"TF_MODEL_POOL_PREPARE", "on"}, {"TF_MODEL_POOL_RETAIN", retain}},
        &settings);
    EXPECT_NE(error.find("TF_MODEL_POOL_PREPARE=\"on\""), std::string::npos)
        << error;
    EXPECT_NE(error.find("TF_MODEL_POOL_RETAIN"), std::string::npos) << error;
    EXPECT_FALSE(settings.prepare);
  }
  EXPECT_EQ(Parsed({{"TF_MODEL_POOL_PREPARE", "off"},
                    {"TF_MODEL_POOL_RETAIN", "release"}})
                .retain,
            Settings::Retain::kRelease);
}

TEST(SettingsTest, PoolsSwitchedOffDoNotExcuseAMalformedVariable) {
  Settings settings;
  EXPECT_NE(Parse({{"TF_MODEL_POOL", "off"}, {"TF_MODEL_POOL_SLOTS", "x"}},
                  &settings),
            "");
}

struct Malformed {
  const char* variable;
  const char* value;
  const char* allowed;  // what the message must offer
};

class MalformedSettingTest : public ::testing::TestWithParam<Malformed> {};

TEST_P(MalformedSettingTest, IsNamedWithItsValueAndWhatIsAllowed) {
  const Malformed& bad = GetParam();
  Settings settings;
  settings.slots = 17;
  settings.retain_seconds = 5;

  const std::string error = Parse({{bad.variable, bad.value}}, &settings);

  EXPECT_NE(error.find(std::string(bad.variable) + "=\"" + bad.value + "\""),
            std::string::npos)
      << error;
  EXPECT_NE(error.find(bad.allowed), std::string::npos) << error;
  // The output is left alone.
  EXPECT_EQ(settings.slots, 17);
  EXPECT_EQ(settings.retain_seconds, 5);
}

constexpr char kOnOff[] = "\"on\" or \"off\"";
constexpr char kSlots[] = "from 1 to 26";
constexpr char kLimit[] = "from 1 to 67108864";
constexpr char kReadLimit[] = "MiB a second from 1 to 1048576";
constexpr char kPriority[] = "\"auto\" or \"normal\"";
constexpr char kRetain[] =
    "\"standby\", \"release\" or a whole number of seconds";

INSTANTIATE_TEST_SUITE_P(
    Switches, MalformedSettingTest,
    ::testing::Values(Malformed{"TF_MODEL_POOL", "", kOnOff},
                      Malformed{"TF_MODEL_POOL", " ", kOnOff},
                      Malformed{"TF_MODEL_POOL", "On", kOnOff},
                      Malformed{"TF_MODEL_POOL", "OFF", kOnOff},
                      Malformed{"TF_MODEL_POOL", " on", kOnOff},
                      Malformed{"TF_MODEL_POOL", "off ", kOnOff},
                      Malformed{"TF_MODEL_POOL", "1", kOnOff},
                      Malformed{"TF_MODEL_POOL", "true", kOnOff},
                      Malformed{"TF_MODEL_POOL_HUGE_PAGES", "", kOnOff},
                      Malformed{"TF_MODEL_POOL_HUGE_PAGES", "ON", kOnOff},
                      Malformed{"TF_MODEL_POOL_HUGE_PAGES", "always", kOnOff},
                      Malformed{"TF_MODEL_POOL_PREFAULT", "", kOnOff},
                      Malformed{"TF_MODEL_POOL_PREFAULT", "Off", kOnOff},
                      Malformed{"TF_MODEL_POOL_PREFAULT", "0", kOnOff},
                      Malformed{"TF_MODEL_POOL_PREPARE", "", kOnOff},
                      Malformed{"TF_MODEL_POOL_PREPARE", "yes", kOnOff},
                      Malformed{"TF_MODEL_POOL_DIRECT_RESTORE", "no", kOnOff},
                      Malformed{"TF_MODEL_POOL_DROP_CACHE", "", kOnOff},
                      Malformed{"TF_MODEL_POOL_DROP_CACHE", "1", kOnOff}));

INSTANTIATE_TEST_SUITE_P(
    LoadPriority, MalformedSettingTest,
    ::testing::Values(
        Malformed{"TF_MODEL_POOL_PREPARE_RUNS", "", "from 0 to 256"},
        Malformed{"TF_MODEL_POOL_PREPARE_RUNS", "257", "from 0 to 256"},
        Malformed{"TF_MODEL_POOL_PREPARE_RUNS", "-1", "from 0 to 256"},
        Malformed{"TF_MODEL_POOL_LOAD_PRIORITY", "", kPriority},
        Malformed{"TF_MODEL_POOL_LOAD_PRIORITY", "low", kPriority},
        Malformed{"TF_MODEL_POOL_LOAD_PRIORITY", "10", kPriority},
        Malformed{"TF_MODEL_POOL_LOAD_PRIORITY", "normal ", kPriority}));

INSTANTIATE_TEST_SUITE_P(
    Slots, MalformedSettingTest,
    ::testing::Values(Malformed{"TF_MODEL_POOL_SLOTS", "", kSlots},
                      Malformed{"TF_MODEL_POOL_SLOTS", " ", kSlots},
                      Malformed{"TF_MODEL_POOL_SLOTS", "0", kSlots},
                      Malformed{"TF_MODEL_POOL_SLOTS", "27", kSlots},
                      Malformed{"TF_MODEL_POOL_SLOTS", "+2", kSlots},
                      Malformed{"TF_MODEL_POOL_SLOTS", "-1", kSlots},
                      Malformed{"TF_MODEL_POOL_SLOTS", " 2", kSlots},
                      Malformed{"TF_MODEL_POOL_SLOTS", "2 ", kSlots},
                      Malformed{"TF_MODEL_POOL_SLOTS", "2.0", kSlots},
                      Malformed{"TF_MODEL_POOL_SLOTS", "0x2", kSlots},
                      Malformed{"TF_MODEL_POOL_SLOTS", "two", kSlots},
                      // 2^64 + 4 and 2^32 + 4 wrap to a valid number.
                      Malformed{"TF_MODEL_POOL_SLOTS", "18446744073709551620",
                                kSlots},
                      Malformed{"TF_MODEL_POOL_SLOTS", "4294967300", kSlots}));

INSTANTIATE_TEST_SUITE_P(
    Limit, MalformedSettingTest,
    ::testing::Values(
        Malformed{"TF_MODEL_POOL_LIMIT_MB", "", kLimit},
        Malformed{"TF_MODEL_POOL_LIMIT_MB", "0", kLimit},
        Malformed{"TF_MODEL_POOL_LIMIT_MB", "-5", kLimit},
        Malformed{"TF_MODEL_POOL_LIMIT_MB", "+5", kLimit},
        Malformed{"TF_MODEL_POOL_LIMIT_MB", "5MB", kLimit},
        Malformed{"TF_MODEL_POOL_LIMIT_MB", "5 ", kLimit},
        Malformed{"TF_MODEL_POOL_LIMIT_MB", "1e3", kLimit},
        Malformed{"TF_MODEL_POOL_LIMIT_MB", "67108865", kLimit},
        Malformed{"TF_MODEL_POOL_LIMIT_MB", "18446744073709551617", kLimit},
        Malformed{"TF_MODEL_POOL_LIMIT_MB", "unlimited", kLimit}));

INSTANTIATE_TEST_SUITE_P(
    ReadLimit, MalformedSettingTest,
    ::testing::Values(
        Malformed{"TF_MODEL_POOL_READ_MB_PER_S", "", kReadLimit},
        Malformed{"TF_MODEL_POOL_READ_MB_PER_S", "0", kReadLimit},
        Malformed{"TF_MODEL_POOL_READ_MB_PER_S", "200MB", kReadLimit},
        Malformed{"TF_MODEL_POOL_READ_MB_PER_S", "0.5", kReadLimit},
        Malformed{"TF_MODEL_POOL_READ_MB_PER_S", "1048577", kReadLimit}));

INSTANTIATE_TEST_SUITE_P(
    Retain, MalformedSettingTest,
    ::testing::Values(Malformed{"TF_MODEL_POOL_RETAIN", "", kRetain},
                      Malformed{"TF_MODEL_POOL_RETAIN", "Standby", kRetain},
                      Malformed{"TF_MODEL_POOL_RETAIN", "RELEASE", kRetain},
                      Malformed{"TF_MODEL_POOL_RETAIN", "release ", kRetain},
                      Malformed{"TF_MODEL_POOL_RETAIN", "-1", kRetain},
                      Malformed{"TF_MODEL_POOL_RETAIN", "+1", kRetain},
                      Malformed{"TF_MODEL_POOL_RETAIN", "30s", kRetain},
                      Malformed{"TF_MODEL_POOL_RETAIN", "1.5", kRetain},
                      Malformed{"TF_MODEL_POOL_RETAIN", "31622401", kRetain},
                      Malformed{"TF_MODEL_POOL_RETAIN", "99999999999999999999",
                                kRetain}));

}  // namespace
}  // namespace tf_model_pool
