// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/system_memory.h"

#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace tf_model_pool {
namespace {

// Made usable at once. mprotect takes the lock that mmap and munmap of all
// other threads wait for, and after mlockall(MCL_FUTURE) it faults the pages in
// while it has it.
constexpr size_t kCommitSlice = 4 * kRegionGranularity;

// 64 TiB, half of what an x86-64 process can address.
constexpr uint64_t kAmpleAddressSpace = uint64_t{64} << 40;

std::atomic<BeforeFaults> before_faults{nullptr};

// Not MADV_POPULATE_WRITE: it holds the lock that mmap and munmap of all other
// threads wait for, and takes it again before they get it
// (docs/results/decisions.md has the stalls). A page fault takes it for one
// page, since Linux 6.4 not at all.
void Prefault(char* begin, size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (size_t done = 0; done < bytes; done += kRegionGranularity) {
    if (const BeforeFaults function = before_faults.load()) function();
    for (size_t i = 0; i < kRegionGranularity; i += page) {
      *reinterpret_cast<volatile char*>(begin + done + i) = 0;
    }
  }
}

}  // namespace

BeforeFaults CallBeforeFaults(BeforeFaults function) {
  return before_faults.exchange(function);
}

void* MappedMemory::Reserve(size_t bytes) {
  // mmap aligns to pages only: take more and give both ends back.
  const size_t padded = bytes + kRegionGranularity;
  if (padded < bytes) return nullptr;
  void* raw = mmap(nullptr, padded, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  const uintptr_t start = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = RoundUp(start, kRegionGranularity);
  if (aligned > start) munmap(raw, aligned - start);
  const size_t tail = (start + padded) - (aligned + bytes);
  if (tail > 0) munmap(reinterpret_cast<void*>(aligned + bytes), tail);
  return reinterpret_cast<void*>(aligned);
}

bool MappedMemory::AddressSpaceIsScarce() const {
  rlimit limit;
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    return true;
  }
  // The kernel puts these bytes on the first stack, at the top of what a
  // process can address: below 2^39 or 2^42 on AArch64, as it was built.
  const uint64_t top = getauxval(AT_RANDOM);
  return top != 0 && top < kAmpleAddressSpace;
}

bool MappedMemory::Commit(void* address, size_t bytes) {
  char* const begin = static_cast<char*>(address);
  if (options_.huge_pages) madvise(begin, bytes, MADV_HUGEPAGE);
  for (size_t done = 0; done < bytes; done += kCommitSlice) {
    const size_t slice = std::min(kCommitSlice, bytes - done);
    if (mprotect(begin + done, slice, PROT_READ | PROT_WRITE) != 0) {
      if (done > 0) Decommit(begin, done);
      return false;
    }
    if (options_.prefault) Prefault(begin + done, slice);
  }
  return true;
}

bool MappedMemory::Offer(void* address, size_t bytes) {
  return madvise(address, bytes, MADV_FREE) == 0;
}

void MappedMemory::Discard(void* address, size_t bytes) {
  madvise(address, bytes, MADV_DONTNEED);
}

void MappedMemory::Decommit(void* address, size_t bytes) {
  // Frees the pages without the lock that stops every page fault of the
  // process, which mmap takes.
  Discard(address, bytes);
  // A fresh mapping also returns the commit charge, which mprotect keeps.
  if (mmap(address, bytes, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
           0) == MAP_FAILED) {
    mprotect(address, bytes, PROT_NONE);
  }
}

void MappedMemory::Unreserve(void* address, size_t bytes) {
  munmap(address, bytes);
}

bool VisitedMemory::Commit(void* address, size_t bytes) {
  if (!memory_->Commit(address, bytes)) return false;
  {
    std::lock_guard<std::mutex> lock(mu_);
    parts_.push_back({address, bytes});
  }
  on_commit_(address, bytes);
  return true;
}

void VisitedMemory::Discard(void* address, size_t bytes) {
  Leave(address, bytes);
  memory_->Discard(address, bytes);
}

void VisitedMemory::Decommit(void* address, size_t bytes) {
  Leave(address, bytes);
  memory_->Decommit(address, bytes);
}

void VisitedMemory::Unreserve(void* address, size_t bytes) {
  Leave(address, bytes);
  memory_->Unreserve(address, bytes);
}

void VisitedMemory::Leave(void* address, size_t bytes) {
  const char* begin = static_cast<char*>(address);
  std::vector<Part> leaving;
  {
    std::lock_guard<std::mutex> lock(mu_);
    const auto kept =
        std::stable_partition(parts_.begin(), parts_.end(), [&](const Part& p) {
          const char* at = static_cast<char*>(p.address);
          return at < begin || at >= begin + bytes;
        });
    leaving.assign(kept, parts_.end());
    parts_.erase(kept, parts_.end());
  }
  for (const Part& part : leaving) on_decommit_(part.address, part.bytes);
}

}  // namespace tf_model_pool
