// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/binary/hook_status.h"

#include <dlfcn.h>
#include <link.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tensorflow/core/common_runtime/threadpool_device.h"
#include "tf_allocator/binary/preload.h"
#include "tf_allocator/report/unbound_hooks.h"

// The class's table of virtual functions, in libtensorflow_framework.so.2.
extern "C"
    __attribute__((weak)) void* const _ZTVN10tensorflow16ThreadPoolDeviceE[];

namespace tensorflow {
namespace {

constexpr char kFRAMEWORK[] = "libtensorflow_framework.so.2";
constexpr char kCC[] = "libtensorflow_cc.so.2";

// A row of hooks.def as this build has it.
struct Row {
  const char* name;      // for messages
  const char* library;   // the original's, a name without directory
  const char* symbol;    // "" if this release has no such function to replace
  uint64_t offset;       // of the original from the library's base, for a
                         // library in which it has no name any more
  const char* code_hex;  // the first bytes at `offset`, in hexadecimal
};

constexpr Row kRows[] = {
#define FUNCTION_HOOK(id, library, name, mangled)                              \
  {name, k##library, TF_MODEL_POOL_##id##_SYMBOL, TF_MODEL_POOL_##id##_OFFSET, \
   TF_MODEL_POOL_##id##_CODE},
#include "tf_allocator/binary/hooks.def"
};

// The base of the library that `address` lies in, nullptr if in none.
const void* LibraryBase(const void* address) {
  Dl_info info;
  return dladdr(address, &info) != 0 ? info.dli_fbase : nullptr;
}

const void* OurBase() {
  static const char here = 0;
  return LibraryBase(&here);
}

// True if a call that arrives at `address` is a call of ours: directly, or
// through a hook of the preloaded library.
bool LeadsToUs(const void* address) {
  const void* base = LibraryBase(address);
  if (base == nullptr) return false;
  if (base == OurBase()) return true;
  const auto target = reinterpret_cast<decltype(&tf_model_pool_preload_target)>(
      dlsym(RTLD_DEFAULT, "tf_model_pool_preload_target"));
  Dl_info info;
  if (target == nullptr ||
      base != LibraryBase(reinterpret_cast<const void*>(target)) ||
      dladdr(address, &info) == 0 || info.dli_sname == nullptr) {
    return false;
  }
  return LibraryBase(target(info.dli_sname)) == OurBase();
}

// In the Itanium C++ ABI a pointer to a virtual member is the offset of its
// slot and a mark: 1 more, or on AArch64, where a function's address can be
// odd, nothing here and the mark in the second word.
#ifdef __aarch64__
constexpr uintptr_t kVirtualMark = 0;
#else
constexpr uintptr_t kVirtualMark = 1;
#endif

// True if TensorFlow's calls of a virtual member of ThreadPoolDevice reach
// ours.
template <typename Member>
bool MemberIsOurs(Member member) {
  if (_ZTVN10tensorflow16ThreadPoolDeviceE == nullptr) return false;
  uintptr_t encoded;
  std::memcpy(&encoded, &member, sizeof(encoded));
  const size_t slot = (encoded - kVirtualMark) / sizeof(void*);
  // Two words come before the first slot.
  return LeadsToUs(_ZTVN10tensorflow16ThreadPoolDeviceE[2 + slot]);
}

// Returns "" if a call of the function from its own library reaches ours.
std::string WhyNotCalled(const Row& row) {
  void* library = dlopen(row.library, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return std::string(row.library) + " is not loaded";
  // The library itself finds this one, unless something was preloaded.
  const void* bound = dlsym(library, row.symbol);
  dlclose(library);
  if (LibraryBase(bound) == OurBase()) return "";
  // Our own definition may be the first one here without being the one that
  // that library sees: only the preloaded library comes before it.
  const void* first = dlsym(RTLD_DEFAULT, row.symbol);
  if (LibraryBase(first) != OurBase() && LeadsToUs(first)) return "";
  return std::string(row.library) +
         " was not patched, and the library was not preloaded";
}

struct LibrarySearch {
  const char* name;
  uintptr_t base;
};

int FindLibrary(dl_phdr_info* info, size_t, void* out) {
  auto* search = static_cast<LibrarySearch*>(out);
  const char* slash = std::strrchr(info->dlpi_name, '/');
  const char* name = slash == nullptr ? info->dlpi_name : slash + 1;
  if (std::strcmp(name, search->name) != 0) return 0;
  search->base = info->dlpi_addr;
  return 1;
}

int HexDigit(char c) { return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10; }

bool SameCode(const unsigned char* code, const char* hex) {
  for (; hex[0] != '\0' && hex[1] != '\0'; hex += 2, ++code) {
    if (*code != HexDigit(hex[0]) * 16 + HexDigit(hex[1])) return false;
  }
  return true;
}

void* OriginalOf(const Row& row, std::string* error) {
  LibrarySearch search = {row.library, 0};
  void* library = dlopen(row.library, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr || dl_iterate_phdr(FindLibrary, &search) == 0) {
    *error = std::string(row.library) + " is not loaded";
    return nullptr;
  }
  const void* its_base = LibraryBase(reinterpret_cast<void*>(search.base));
  void* named = dlsym(library, row.symbol);
  dlclose(library);
  if (named != nullptr && LibraryBase(named) == its_base) return named;
  void* original = reinterpret_cast<void*>(search.base + row.offset);
  if (row.offset == 0 || LibraryBase(original) != its_base ||
      !SameCode(static_cast<const unsigned char*>(original), row.code_hex)) {
    *error = std::string(row.library) +
             " is not the one that libtf_model_pool.so was built for";
    return nullptr;
  }
  return original;
}

}  // namespace

std::string UnboundHooks() {
  // What is bound stays bound, and a search of these symbol tables takes
  // milliseconds: a server asks with every scrape of its metrics.
  static std::atomic<bool> bound{false};
  if (bound.load(std::memory_order_relaxed)) return "";
  std::string unbound;
  const auto add = [&unbound](const std::string& what) {
    if (!unbound.empty()) unbound += "; ";
    unbound += what;
  };
#define MEMBER_HOOK(id, member, mangled) \
  if (!MemberIsOurs(&member)) add(#member);
#include "tf_allocator/binary/hooks.def"
  for (const Row& row : kRows) {
    if (row.symbol[0] == '\0') continue;
    std::string why = WhyNotCalled(row);
    if (why.empty()) OriginalOf(row, &why);
    if (!why.empty()) add(std::string(row.name) + " (" + why + ")");
  }
  if (unbound.empty()) bound.store(true, std::memory_order_relaxed);
  return unbound;
}

void* FindOriginal(WrappedFunction function, std::string* error) {
  return OriginalOf(kRows[static_cast<size_t>(function)], error);
}

}  // namespace tensorflow
