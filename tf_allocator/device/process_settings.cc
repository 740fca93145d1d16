// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/device/process_settings.h"

#include <cstdlib>

#include "tensorflow/core/platform/logging.h"

namespace tf_model_pool {
namespace {

struct ReadSettings {
  Settings settings;
  std::string error;

  ReadSettings() {
    error = Settings::Parse([](const char* name) { return std::getenv(name); },
                            &settings);
    if (error.empty()) return;
    settings.enabled = false;
    LOG(ERROR) << "Model pools are off: " << error;
  }

  static const ReadSettings& OfProcess() {
    static const ReadSettings* const read = new ReadSettings;
    return *read;
  }
};

}  // namespace

const Settings& ProcessSettings() { return ReadSettings::OfProcess().settings; }

const std::string& ProcessSettingsError() {
  return ReadSettings::OfProcess().error;
}

}  // namespace tf_model_pool
