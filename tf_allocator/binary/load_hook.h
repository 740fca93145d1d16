// SPDX-License-Identifier: Apache-2.0

#ifndef TF_ALLOCATOR_BINARY_LOAD_HOOK_H_
#define TF_ALLOCATOR_BINARY_LOAD_HOOK_H_

#include <vector>

#include "tf_allocator/binary/hook_status.h"

namespace tensorflow {

// Those of TensorFlow's functions that load SavedModels which this release
// calls by name: RestoreSession in all, and around it LoadSavedModelInternal or
// LoadMetagraphIntoSession.
std::vector<const WrappedFunction*> WrappedLoadFunctions();

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_BINARY_LOAD_HOOK_H_
