// SPDX-License-Identifier: Apache-2.0
//
// The functions of hooks.def as this build has them: whether TensorFlow calls
// ours, and how we call the ones that we wrap. In a source build neither
// question arises: the patches call us.

#ifndef TF_ALLOCATOR_BINARY_HOOK_STATUS_H_
#define TF_ALLOCATOR_BINARY_HOOK_STATUS_H_

#include <string>

namespace tensorflow {

// The ids of the functions that ours call.
enum class WrappedFunction {
#define FUNCTION_HOOK(id, library, name, mangled) id,
#include "tf_allocator/binary/hooks.def"
};

// TensorFlow's own: by its name in an untouched library (LD_PRELOAD), at the
// recorded offset in a patched one. Returns nullptr, with one sentence in
// `*error`, if its library is not loaded or not the one that ours was built
// for. Thread-safe.
void* FindOriginal(WrappedFunction function, std::string* error);

// An original, looked up once.
template <typename Function>
struct Original {
  Function function = nullptr;
  std::string error;

  explicit Original(WrappedFunction wrapped) {
    function = reinterpret_cast<Function>(FindOriginal(wrapped, &error));
  }
};

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_BINARY_HOOK_STATUS_H_
