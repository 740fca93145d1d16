// SPDX-License-Identifier: Apache-2.0
//
// Whether TensorFlow calls our functions, and how we call the ones that we
// wrap. In a source build neither question arises: the patches call us.

#ifndef TF_ALLOCATOR_BINARY_HOOK_STATUS_H_
#define TF_ALLOCATOR_BINARY_HOOK_STATUS_H_

#include <cstdint>
#include <string>

namespace tensorflow {

constexpr char kFrameworkLibrary[] = "libtensorflow_framework.so.2";
constexpr char kCcLibrary[] = "libtensorflow_cc.so.2";

// A function of TensorFlow's that ours, of the same name, stands in front of.
struct WrappedFunction {
  const char* what;      // for messages
  const char* library;   // the original's, a name without directory
  const void* ours;      // the function in front
  uint64_t offset;       // of the original from the library's base, for a
                         // library in which it has no name any more
  const char* code_hex;  // the first bytes at `offset`, in hexadecimal
};

// The original's address: by its name in an untouched library (LD_PRELOAD), at
// the recorded offset in a patched one. Returns nullptr, with one sentence in
// `*error`, where its library is not loaded or not the one that ours was built
// for.
void* FindOriginal(const WrappedFunction& function, std::string* error);

// An original, looked up once.
template <typename Function>
struct Original {
  Function function = nullptr;
  std::string error;

  explicit Original(const WrappedFunction& wrapped) {
    function = reinterpret_cast<Function>(FindOriginal(wrapped, &error));
  }
};

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_BINARY_HOOK_STATUS_H_
