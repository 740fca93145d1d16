// SPDX-License-Identifier: Apache-2.0
//
// The settings of this process, read once, at first use.

#ifndef TF_ALLOCATOR_DEVICE_PROCESS_SETTINGS_H_
#define TF_ALLOCATOR_DEVICE_PROCESS_SETTINGS_H_

#include <string>

#include "tf_allocator/device/settings.h"

namespace tf_model_pool {

// Thread-safe. If one is malformed pools are off, and the error is logged once.
const Settings& ProcessSettings();

// The sentence that names the malformed setting; "" if there is none.
const std::string& ProcessSettingsError();

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_DEVICE_PROCESS_SETTINGS_H_
