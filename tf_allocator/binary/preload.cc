// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/binary/preload.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "The hooks below are written for x86-64 and AArch64."
#endif

namespace {

constexpr char kLibrary[] = "libtf_model_pool.so";
constexpr char kCC[] = "libtensorflow_cc.so.2";
constexpr char kFRAMEWORK[] = "libtensorflow_framework.so.2";

struct Hook {
  const char* symbol;  // "" if this release has no such function to replace
  const char* home;    // the library of TensorFlow's that defines the original
};

// The assembly below numbers them in the same order, that of hooks.def.
constexpr Hook kHooks[] = {
#define MEMBER_HOOK(id, member, mangled) \
  {TF_MODEL_POOL_##id##_SYMBOL, kFRAMEWORK},
#define FUNCTION_HOOK(id, library, name, mangled) \
  {TF_MODEL_POOL_##id##_SYMBOL, k##library},
#include "tf_allocator/binary/hooks.def"
};
constexpr size_t kNumHooks = sizeof(kHooks) / sizeof(kHooks[0]);

void* Loaded(const char* soname) {
  return dlopen(soname, RTLD_LAZY | RTLD_NOLOAD);
}

// One line for a process, however many hooks find the same trouble.
void Report(const char* what, const char* detail) {
  static int reported = 0;
  if (__atomic_exchange_n(&reported, 1, __ATOMIC_RELAXED) != 0) return;
  fprintf(stderr, "tf_model_pool: %s%s; it leaves this process as it is\n",
          what, detail);
}

// True if the TensorFlow of this process is the version whose headers the
// library was compiled with.
bool TensorFlowFits() {
  void* cc = Loaded(kCC);
  if (cc == nullptr) {
    Report(kCC, " is not loaded");
    return false;
  }
  const auto version =
      reinterpret_cast<const char* (*)()>(dlsym(cc, "TF_Version"));
  const char* found = version == nullptr ? "of unknown version" : version();
  if (strcmp(found, TF_MODEL_POOL_TENSORFLOW_VERSION) == 0) return true;
  Report(
      "the preloaded library is for "
      "TensorFlow " TF_MODEL_POOL_TENSORFLOW_VERSION
      ", and this is TensorFlow ",
      found);
  return false;
}

// libtf_model_pool.so, which lies beside this library; nullptr, reported,
// if it cannot be had.
void* FindLibrary() {
  if (!TensorFlowFits()) return nullptr;
  // It may be there: the Python binding and patched libraries bring it.
  if (void* loaded = Loaded(kLibrary)) return loaded;
  Dl_info self;
  char path[4096];
  if (dladdr(reinterpret_cast<const void*>(&Report), &self) == 0) {
    Report("the path of the preloaded library is not known", "");
    return nullptr;
  }
  const char* slash = strrchr(self.dli_fname, '/');
  const int directory =
      slash == nullptr ? 0 : static_cast<int>(slash - self.dli_fname) + 1;
  const int length = snprintf(path, sizeof(path), "%.*s%s", directory,
                              self.dli_fname, kLibrary);
  if (length < 0 || static_cast<size_t>(length) >= sizeof(path)) {
    Report("path too long: ", self.dli_fname);
    return nullptr;
  }
  void* library = dlopen(path, RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) Report("", dlerror());
  return library;
}

// The library that FindLibrary() found first: all hooks of a process lead to
// one place. No lock, because dlopen takes the loader's, which may be waiting
// for a hook.
void* Library() {
  static void* kept = nullptr;
  static char none;
  void* library = __atomic_load_n(&kept, __ATOMIC_ACQUIRE);
  if (library == nullptr) {
    void* found = FindLibrary();
    if (found == nullptr) found = &none;
    if (__atomic_compare_exchange_n(&kept, &library, found, false,
                                    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
      library = found;
    }
  }
  return library == &none ? nullptr : library;
}

}  // namespace

extern "C" {

// The address that each hook jumps to: at first, its `first call` below.
__attribute__((visibility(
    "hidden"))) extern const void* tf_model_pool_preload_targets[kNumHooks];

// Finds, keeps and returns what hook `index` leads to: the library's function
// or, if there are to be no pools, TensorFlow's own.
__attribute__((visibility("hidden"), used)) const void*
tf_model_pool_preload_resolve(size_t index) {
  const Hook& hook = kHooks[index];
  const void* target = nullptr;
  if (void* library = Library()) {
    target = dlsym(library, hook.symbol);
    if (target == nullptr) Report(kLibrary, " does not define the hooks");
  }
  if (target == nullptr) {
    void* home = Loaded(hook.home);
    if (home != nullptr) target = dlsym(home, hook.symbol);
  }
  if (target == nullptr) {
    fprintf(stderr, "tf_model_pool: nothing defines %s\n", hook.symbol);
    abort();
  }
  __atomic_store_n(&tf_model_pool_preload_targets[index], target,
                   __ATOMIC_RELEASE);
  return target;
}

const void* tf_model_pool_preload_target(const char* symbol) {
  Library();
  for (size_t i = 0; i < kNumHooks; ++i) {
    if (symbol[0] != '\0' && strcmp(symbol, kHooks[i].symbol) == 0) {
      return tf_model_pool_preload_resolve(i);
    }
  }
  return nullptr;
}

}  // extern "C"

// A hook passes its arguments on as they are, whatever they are: it jumps. On
// its first call it saves every register that can hold an argument (System V
// ABI, x86-64; "Procedure Call Standard for the Arm 64-bit Architecture")
// around the search for its target.
//
// JUMP(id) jumps to the target of hook `id`, FIRST_CALL(id) to .Lresolve with
// its number: on the stack, or in x17.
// clang-format off
#ifdef __x86_64__
#define JUMP(id) \
  "  endbr64\n" \
  "  jmp *tf_model_pool_preload_targets+8*.Lindex_" #id "(%rip)\n"
#define FIRST_CALL(id) \
  "  endbr64\n" \
  "  pushq $.Lindex_" #id "\n" \
  "  jmp .Lresolve\n"
#else
#define JUMP(id) \
  "  hint #34\n"  /* bti c, which an older assembler does not know */ \
  "  adrp x16, tf_model_pool_preload_targets+8*.Lindex_" #id "\n" \
  "  ldr x16, [x16, :lo12:tf_model_pool_preload_targets+8*.Lindex_" #id "]\n" \
  "  br x16\n"
#define FIRST_CALL(id) \
  "  hint #34\n" \
  "  mov x17, .Lindex_" #id "\n" \
  "  b .Lresolve\n"
#endif

// A row without a symbol has a number and an empty target, and no hook.
#define HOOK(id, symbol) \
  ".set .Lindex_" #id ", .Lnum_hooks\n" \
  ".set .Lnum_hooks, .Lnum_hooks + 1\n" \
  ".ifnb " symbol "\n" \
  ".p2align 4\n" \
  ".globl " symbol "\n" \
  ".type " symbol ", @function\n" \
  symbol ":\n" \
  JUMP(id) \
  ".size " symbol ", .-" symbol "\n" \
  ".Lfirst_call_" #id ":\n" \
  FIRST_CALL(id) \
  ".pushsection .data\n" \
  "  .quad .Lfirst_call_" #id "\n" \
  ".popsection\n" \
  ".else\n" \
  ".pushsection .data\n" \
  "  .quad 0\n" \
  ".popsection\n" \
  ".endif\n"
#define MEMBER_HOOK(id, member, mangled) HOOK(id, TF_MODEL_POOL_##id##_SYMBOL)
#define FUNCTION_HOOK(id, library, name, mangled) \
  HOOK(id, TF_MODEL_POOL_##id##_SYMBOL)

asm(R"(
.set .Lnum_hooks, 0
.pushsection .data
.p2align 3
.globl tf_model_pool_preload_targets
.hidden tf_model_pool_preload_targets
tf_model_pool_preload_targets:
.popsection
.pushsection .text
)"
#include "tf_allocator/binary/hooks.def"
R"(
.pushsection .data
.size tf_model_pool_preload_targets, .-tf_model_pool_preload_targets
.popsection
.p2align 4
.Lresolve:
)"
#ifdef __x86_64__
R"(
  pushq %rbp
  movq %rsp, %rbp
  pushq %rdi
  pushq %rsi
  pushq %rdx
  pushq %rcx
  pushq %r8
  pushq %r9
  pushq %rax
  pushq %r10
  subq $136, %rsp
  movups %xmm0, (%rsp)
  movups %xmm1, 16(%rsp)
  movups %xmm2, 32(%rsp)
  movups %xmm3, 48(%rsp)
  movups %xmm4, 64(%rsp)
  movups %xmm5, 80(%rsp)
  movups %xmm6, 96(%rsp)
  movups %xmm7, 112(%rsp)
  movq 8(%rbp), %rdi
  call tf_model_pool_preload_resolve
  movq %rax, %r11
  movups (%rsp), %xmm0
  movups 16(%rsp), %xmm1
  movups 32(%rsp), %xmm2
  movups 48(%rsp), %xmm3
  movups 64(%rsp), %xmm4
  movups 80(%rsp), %xmm5
  movups 96(%rsp), %xmm6
  movups 112(%rsp), %xmm7
  addq $136, %rsp
  popq %r10
  popq %rax
  popq %r9
  popq %r8
  popq %rcx
  popq %rdx
  popq %rsi
  popq %rdi
  popq %rbp
  addq $8, %rsp
  jmp *%r11
)"
#else
R"(
  stp x29, x30, [sp, #-224]!
  mov x29, sp
  stp x0, x1, [sp, #16]
  stp x2, x3, [sp, #32]
  stp x4, x5, [sp, #48]
  stp x6, x7, [sp, #64]
  str x8, [sp, #80]
  stp q0, q1, [sp, #96]
  stp q2, q3, [sp, #128]
  stp q4, q5, [sp, #160]
  stp q6, q7, [sp, #192]
  mov x0, x17
  bl tf_model_pool_preload_resolve
  mov x16, x0
  ldp x0, x1, [sp, #16]
  ldp x2, x3, [sp, #32]
  ldp x4, x5, [sp, #48]
  ldp x6, x7, [sp, #64]
  ldr x8, [sp, #80]
  ldp q0, q1, [sp, #96]
  ldp q2, q3, [sp, #128]
  ldp q4, q5, [sp, #160]
  ldp q6, q7, [sp, #192]
  ldp x29, x30, [sp], #224
  br x16
)"
#endif
R"(
.popsection
)");
// clang-format on
