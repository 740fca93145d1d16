// SPDX-License-Identifier: Apache-2.0

#ifndef TF_ALLOCATOR_RUNTIME_PROCESS_SETTINGS_H_
#define TF_ALLOCATOR_RUNTIME_PROCESS_SETTINGS_H_

#include "tf_allocator/pool/settings.h"

namespace tf_model_pool {

// The settings of this process, read once, at first use. Where one is malformed
// pools are off; the error is logged once and in GetStatus().
const Settings& ProcessSettings();

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_RUNTIME_PROCESS_SETTINGS_H_
