// SPDX-License-Identifier: Apache-2.0

#ifndef TF_ALLOCATOR_BINARY_RESTORE_HOOK_H_
#define TF_ALLOCATOR_BINARY_RESTORE_HOOK_H_

#include <array>

#include "tf_allocator/binary/hook_status.h"

namespace tensorflow {

// RestoreTensorsV2 and RestoreTensor.
std::array<const WrappedFunction*, 2> WrappedRestoreFunctions();

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_BINARY_RESTORE_HOOK_H_
