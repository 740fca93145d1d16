// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/binary/hook_status.h"

#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <type_traits>
#include <vector>

#include "tensorflow/core/common_runtime/threadpool_device.h"
#include "tf_allocator/binary/load_hook.h"
#include "tf_allocator/binary/preload.h"
#include "tf_allocator/binary/restore_hook.h"
#include "tf_allocator/report/unbound_hooks.h"

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

// Whether a call that arrives at `address` is a call of ours: directly, or
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

// Whether TensorFlow's calls of a virtual member of ThreadPoolDevice reach
// ours.
template <typename Member>
bool MemberIsOurs(Member member) {
  if (_ZTVN10tensorflow16ThreadPoolDeviceE == nullptr) return false;
  // The Itanium C++ ABI stores a pointer to a virtual member as 1 plus the
  // offset of its slot, and places two words before the first slot.
  uintptr_t encoded;
  std::memcpy(&encoded, &member, sizeof(encoded));
  const size_t slot = (encoded - 1) / sizeof(void*);
  return LeadsToUs(_ZTVN10tensorflow16ThreadPoolDeviceE[2 + slot]);
}

// Whether a call of `function` from its own library reaches ours.
std::string WhyNotCalled(const WrappedFunction& function) {
  Dl_info info;
  if (dladdr(function.ours, &info) == 0 || info.dli_sname == nullptr) {
    return "its own name is not exported";
  }
  void* library = dlopen(function.library, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) {
    return std::string(function.library) + " is not loaded";
  }
  // What the library itself finds, unless something was preloaded.
  const void* bound = dlsym(library, info.dli_sname);
  dlclose(library);
  if (LibraryBase(bound) == OurBase()) return "";
  // Our own definition may be the first one here without being the one that
  // that library sees: only the preloaded library comes before it.
  const void* first = dlsym(RTLD_DEFAULT, info.dli_sname);
  if (LibraryBase(first) != OurBase() && LeadsToUs(first)) return "";
  return std::string(function.library) +
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

}  // namespace

std::string UnboundHooks() {
  std::string unbound;
  const auto add = [&unbound](const std::string& what) {
    if (!unbound.empty()) unbound += "; ";
    unbound += what;
  };
  if (!MemberIsOurs(&ThreadPoolDevice::GetAllocator)) {
    add("ThreadPoolDevice::GetAllocator");
  }
  if (!MemberIsOurs(&ThreadPoolDevice::MakeTensorFromProto)) {
    add("ThreadPoolDevice::MakeTensorFromProto");
  }
  std::vector<const WrappedFunction*> wrapped = WrappedLoadFunctions();
  for (const WrappedFunction* function : WrappedRestoreFunctions()) {
    wrapped.push_back(function);
  }
  for (const WrappedFunction* function : wrapped) {
    std::string why = WhyNotCalled(*function);
    if (why.empty()) FindOriginal(*function, &why);
    if (!why.empty()) add(std::string(function->what) + " (" + why + ")");
  }
  return unbound;
}

void* FindOriginal(const WrappedFunction& function, std::string* error) {
  LibrarySearch search = {function.library, 0};
  void* library = dlopen(function.library, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr || dl_iterate_phdr(FindLibrary, &search) == 0) {
    *error = std::string(function.library) + " is not loaded";
    return nullptr;
  }
  const void* its_base = LibraryBase(reinterpret_cast<void*>(search.base));
  Dl_info info;
  void* named = nullptr;
  if (dladdr(function.ours, &info) != 0 && info.dli_sname != nullptr) {
    named = dlsym(library, info.dli_sname);
  }
  dlclose(library);
  if (named != nullptr && LibraryBase(named) == its_base) return named;
  void* original = reinterpret_cast<void*>(search.base + function.offset);
  if (function.offset == 0 || LibraryBase(original) != its_base ||
      !SameCode(static_cast<const unsigned char*>(original),
                function.code_hex)) {
    *error = std::string(function.library) +
             " is not the one that libtf_model_pool.so was built for";
    return nullptr;
  }
  return original;
}

}  // namespace tensorflow
