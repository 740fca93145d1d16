// SPDX-License-Identifier: Apache-2.0
//
// Whether TensorFlow calls our functions, and how we call the ones that we
// wrap. In a source build neither question arises: the patches call us.

#ifndef TF_ALLOCATOR_RUNTIME_HOOK_STATUS_H_
#define TF_ALLOCATOR_RUNTIME_HOOK_STATUS_H_

#include <cstdint>
#include <string>

namespace tensorflow {

// The hooks that this process does not use, each with what was found, joined
// by "; ". "" where all are in force.
std::string UnboundHooks();

// A function of libtensorflow_cc.so.2 that ours, of the same name, stands in
// front of.
struct WrappedFunction {
  const char* what;      // for messages
  const void* ours;      // the function in front
  uint64_t offset;       // of the original from the library's base, for a
                         // library in which it has no name any more
  const char* code_hex;  // the first bytes at `offset`, in hexadecimal
};

// The original's address: by its name in an untouched libtensorflow_cc.so.2
// (LD_PRELOAD), at the recorded offset in a patched one. Returns nullptr, with
// one sentence in `*error`, where libtensorflow_cc.so.2 is not loaded or not
// the one that this library was built for.
void* FindOriginal(const WrappedFunction& function, std::string* error);

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_RUNTIME_HOOK_STATUS_H_
