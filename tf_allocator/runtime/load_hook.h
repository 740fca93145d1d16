// SPDX-License-Identifier: Apache-2.0

#ifndef TF_ALLOCATOR_RUNTIME_LOAD_HOOK_H_
#define TF_ALLOCATOR_RUNTIME_LOAD_HOOK_H_

#include "tf_allocator/runtime/hook_status.h"

namespace tensorflow {

// RestoreSession.
const WrappedFunction& WrappedRestoreSession();

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_RUNTIME_LOAD_HOOK_H_
