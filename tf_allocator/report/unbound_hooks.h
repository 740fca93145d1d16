// SPDX-License-Identifier: Apache-2.0

#ifndef TF_ALLOCATOR_REPORT_UNBOUND_HOOKS_H_
#define TF_ALLOCATOR_REPORT_UNBOUND_HOOKS_H_

#include <string>

namespace tensorflow {

// The functions that TensorFlow does not call ours for, each with what was
// found, joined by "; ". "" if all are in force. On top of released binaries
// binary/hook_status.cc finds out; in a source build the patches call ours, and
// source_build.cc says so. Thread-safe.
std::string UnboundHooks();

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_REPORT_UNBOUND_HOOKS_H_
