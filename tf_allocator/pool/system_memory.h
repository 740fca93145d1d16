// SPDX-License-Identifier: Apache-2.0
//
// Address space and pages from the operating system. An interface, so that
// pools can be tested with memory that counts, refuses and needs no gigabytes.

#ifndef TF_ALLOCATOR_POOL_SYSTEM_MEMORY_H_
#define TF_ALLOCATOR_POOL_SYSTEM_MEMORY_H_

#include <cstddef>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

namespace tf_model_pool {

// Memory is committed in multiples of this, aligned to it: the size of a huge
// page on x86-64 and on arm64 with 4 KiB base pages, and whole pages of 64 KiB.
constexpr size_t kRegionGranularity = size_t{2} << 20;

// `bytes` rounded up to a multiple of `multiple`, a power of two.
constexpr size_t RoundUp(size_t bytes, size_t multiple) {
  return (bytes + multiple - 1) & ~(multiple - 1);
}

// Thread-safe. Addresses and sizes are multiples of kRegionGranularity.
class SystemMemory {
 public:
  virtual ~SystemMemory() = default;

  // Takes address space that cannot be accessed yet and costs no memory.
  // Returns nullptr if the system refuses.
  virtual void* Reserve(size_t bytes) = 0;

  // True if there is so little address space that what is reserved in vain is
  // missed elsewhere: RLIMIT_AS, or an AArch64 kernel with addresses of 39 or
  // 42 bits.
  virtual bool AddressSpaceIsScarce() const { return false; }

  // Makes a part of a reserved range usable; its contents are zero. Returns
  // false, with nothing changed, if the system refuses.
  virtual bool Commit(void* address, size_t bytes) = 0;

  // Lets the system take the pages of a committed part when memory is short,
  // until they are written to again; the contents are undefined. Returns false
  // if it does not know how.
  virtual bool Offer(void* address, size_t bytes) = 0;

  // Gives the pages of a committed part back and leaves it usable; its contents
  // are zero again.
  virtual void Discard(void* address, size_t bytes) = 0;

  // Gives the pages of a committed part back; it is as after Reserve(). Quick
  // if they have been discarded.
  virtual void Decommit(void* address, size_t bytes) = 0;

  // True if a piece of what was committed at once can be discarded or
  // decommitted.
  virtual bool Divisible() const { return true; }

  // Ends a reservation or the end of one, committed parts included.
  virtual void Unreserve(void* address, size_t bytes) = 0;
};

// `function` is called before each piece of kRegionGranularity that a thread
// faults in, on that thread, and may wait: nobody but who grows the same pool
// waits with it. nullptr: none. Returns the one before.
using BeforeFaults = void (*)();
BeforeFaults CallBeforeFaults(BeforeFaults function);

// mmap(2). With `prefault`, Commit() takes every page fault itself, on the
// calling thread; with `huge_pages`, it asks for transparent huge pages.
class MappedMemory : public SystemMemory {
 public:
  struct Options {
    bool huge_pages = true;
    bool prefault = true;
  };
  explicit MappedMemory(const Options& options) : options_(options) {}

  void* Reserve(size_t bytes) override;
  bool AddressSpaceIsScarce() const override;
  bool Commit(void* address, size_t bytes) override;
  bool Offer(void* address, size_t bytes) override;
  void Discard(void* address, size_t bytes) override;
  void Decommit(void* address, size_t bytes) override;
  void Unreserve(void* address, size_t bytes) override;

 private:
  const Options options_;
};

// Calls visitors for every committed part, as TensorFlow's SubAllocator does
// for drivers that register host memory. They know parts as committed, so parts
// are not divisible. The visitors must not allocate from a pool.
class VisitedMemory : public SystemMemory {
 public:
  using Visitor = std::function<void(void* address, size_t bytes)>;
  VisitedMemory(SystemMemory* memory, Visitor on_commit, Visitor on_decommit)
      : memory_(memory),
        on_commit_(std::move(on_commit)),
        on_decommit_(std::move(on_decommit)) {}

  void* Reserve(size_t bytes) override { return memory_->Reserve(bytes); }
  bool AddressSpaceIsScarce() const override {
    return memory_->AddressSpaceIsScarce();
  }
  bool Divisible() const override { return false; }
  // A driver may hold on to the pages.
  bool Offer(void*, size_t) override { return false; }
  bool Commit(void* address, size_t bytes) override;
  void Discard(void* address, size_t bytes) override;
  void Decommit(void* address, size_t bytes) override;
  void Unreserve(void* address, size_t bytes) override;

 private:
  struct Part {
    void* address;
    size_t bytes;
  };

  // Visits and forgets the parts that begin in the range.
  void Leave(void* address, size_t bytes);

  SystemMemory* const memory_;  // not owned
  const Visitor on_commit_;
  const Visitor on_decommit_;
  std::mutex mu_;
  std::vector<Part> parts_;  // as committed: a driver unregisters what it saw
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_SYSTEM_MEMORY_H_
