// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/runtime/hook_status.h"

#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <type_traits>
#include <vector>

#include "tensorflow/core/common_runtime/threadpool_device.h"
#include "tf_allocator/runtime/load_hook.h"
#include "tf_allocator/runtime/restore_hook.h"

// The class's table of virtual functions, in libtensorflow_framework.so.2.
extern "C"
    __attribute__((weak)) void* const _ZTVN10tensorflow16ThreadPoolDeviceE[];

namespace tensorflow {
namespace {

// The base of the library that `address` lies in, nullptr where in none.
const void* LibraryBase(const void* address) {
  Dl_info info;
  return dladdr(address, &info) != 0 ? info.dli_fbase : nullptr;
}

const void* OurBase() {
  static const char here = 0;
  return LibraryBase(&here);
}

bool GetAllocatorIsOurs() {
  if (_ZTVN10tensorflow16ThreadPoolDeviceE == nullptr) return false;
  // The Itanium C++ ABI stores a pointer to a virtual member as 1 plus the
  // offset of its slot, and places two words before the first slot.
  Allocator* (ThreadPoolDevice::*member)(AllocatorAttributes) =
      &ThreadPoolDevice::GetAllocator;
  uintptr_t encoded;
  std::memcpy(&encoded, &member, sizeof(encoded));
  const size_t slot = (encoded - 1) / sizeof(void*);
  return LibraryBase(_ZTVN10tensorflow16ThreadPoolDeviceE[2 + slot]) ==
         OurBase();
}

// Whether a call of `function` from its own library reaches ours.
std::string WhyNotCalled(const WrappedFunction& function) {
  Dl_info info;
  if (dladdr(function.ours, &info) == 0 || info.dli_sname == nullptr) {
    return "its own name is not exported";
  }
  const void* preloaded = dlsym(RTLD_DEFAULT, info.dli_sname);
  if (function.offset == 0) {
    return preloaded == function.ours ? "" : "the library is not preloaded";
  }
  void* library = dlopen(function.library, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) {
    return std::string(function.library) + " is not loaded";
  }
  const void* bound = dlsym(library, info.dli_sname);
  dlclose(library);
  if (LibraryBase(bound) == OurBase()) return "";
  return std::string(function.library) + " was not patched";
}

std::vector<const WrappedFunction*> WrappedFunctions() {
  const auto restore = WrappedRestoreFunctions();
  std::vector<const WrappedFunction*> all(restore.begin(), restore.end());
  all.push_back(&WrappedRestoreSession());
  return all;
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

}  // namespace

std::string UnboundHooks() {
  std::string unbound;
  const auto add = [&unbound](const std::string& what) {
    if (!unbound.empty()) unbound += "; ";
    unbound += what;
  };
  if (!GetAllocatorIsOurs()) add("ThreadPoolDevice::GetAllocator");
  for (const WrappedFunction* function : WrappedFunctions()) {
    std::string why = WhyNotCalled(*function);
    if (why.empty()) FindOriginal(*function, &why);
    if (!why.empty()) add(std::string(function->what) + " (" + why + ")");
  }
  return unbound;
}

void* FindOriginal(const WrappedFunction& function, std::string* error) {
  if (function.offset == 0) {
    Dl_info info;
    void* next = nullptr;
    if (dladdr(function.ours, &info) != 0 && info.dli_sname != nullptr) {
      next = dlsym(RTLD_NEXT, info.dli_sname);
    }
    if (next == nullptr) {
      *error = std::string("no other library defines ") + function.what;
    }
    return next;
  }
  LibrarySearch search = {function.library, 0};
  if (dl_iterate_phdr(FindLibrary, &search) == 0) {
    *error = std::string(function.library) + " is not loaded";
    return nullptr;
  }
  void* base = reinterpret_cast<void*>(search.base);
  void* original = static_cast<char*>(base) + function.offset;
  if (LibraryBase(original) != LibraryBase(base) ||
      !SameCode(static_cast<const unsigned char*>(original),
                function.code_hex)) {
    *error = std::string(function.library) +
             " is not the one that libtf_model_pool.so was built for";
    return nullptr;
  }
  return original;
}

}  // namespace tensorflow
