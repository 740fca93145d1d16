// SPDX-License-Identifier: Apache-2.0
//
// Restores a plan's variables without running a graph.

#ifndef TF_ALLOCATOR_RESTORE_DIRECT_RESTORE_H_
#define TF_ALLOCATOR_RESTORE_DIRECT_RESTORE_H_

#include <string>

#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tf_allocator/restore/restore_plan.h"

namespace tensorflow {

// Reads the plan's tensors from the checkpoint at `prefix` into the pool of its
// model version (into the device's allocator if there is none), verifies
// their checksums as TensorFlow does, and makes or sets the variables of
// `resources`. Returns "", or why it could not, for people; no variable has
// then been made or set, and TensorFlow's own restore is to report the error.
// An exception of a thread that reads is thrown here, when all of them have
// ended; a variable is then made or not, never half.
// Thread-safe for different `resources`.
std::string DirectRestore(const RestorePlan& plan, const std::string& prefix,
                          DeviceBase* device, ResourceMgr* resources);

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_RESTORE_DIRECT_RESTORE_H_
