// SPDX-License-Identifier: Apache-2.0
//
// Doubles for tests of pools: memory that counts and refuses, a clock that
// stands still.

#ifndef TF_ALLOCATOR_POOL_TESTING_FAKE_SYSTEM_MEMORY_H_
#define TF_ALLOCATOR_POOL_TESTING_FAKE_SYSTEM_MEMORY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tf_allocator/pool/system_memory.h"

namespace tf_model_pool {

constexpr size_t kMiB = size_t{1} << 20;

// Real memory out of one small range. Reservations lie side by side, in order.
// Fails the test if a caller breaks the contract of SystemMemory. Pages that
// are not committed cannot be accessed.
class FakeSystemMemory : public SystemMemory {
 public:
  static constexpr size_t kArena = 1024 * kMiB;

  FakeSystemMemory()
      : base_(static_cast<char*>(mapped_.Reserve(kArena))), next_(base_) {}
  ~FakeSystemMemory() override {
    EXPECT_EQ(reserved_, 0u) << "address space lost";
    EXPECT_TRUE(committed_.empty()) << "committed memory lost";
    mapped_.Unreserve(base_, kArena);
  }

  void* Reserve(size_t bytes) override {
    std::lock_guard<std::mutex> lock(mu_);
    requests_.push_back(bytes);
    EXPECT_EQ(bytes % kRegionGranularity, 0u);
    if (bytes > max_reserve || reserved_ + bytes > address_space) {
      return nullptr;
    }
    if (bytes > static_cast<size_t>(base_ + kArena - next_)) return nullptr;
    void* range = next_;
    next_ += bytes;
    reserved_ += bytes;
    return range;
  }

  bool Commit(void* address, size_t bytes) override {
    if (refuse_commits) return false;
    if (on_commit) on_commit();
    std::lock_guard<std::mutex> lock(mu_);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(address) % kRegionGranularity, 0u);
    for (size_t i = 0; i < bytes; i += kRegionGranularity) {
      EXPECT_TRUE(committed_.insert(static_cast<char*>(address) + i).second)
          << "committed twice";
    }
    ++commits_;
    return mapped_.Commit(address, bytes);
  }

  bool AddressSpaceIsScarce() const override { return scarce; }

  // Loses what is offered at once, as if memory were always short.
  bool Offer(void* address, size_t bytes) override {
    if (refuse_offers) return false;
    std::lock_guard<std::mutex> lock(mu_);
    for (size_t i = 0; i < bytes; i += kRegionGranularity) {
      EXPECT_EQ(committed_.count(static_cast<char*>(address) + i), 1u)
          << "was not committed";
    }
    offers_.push_back({static_cast<char*>(address), bytes});
    mapped_.Discard(address, bytes);
    return true;
  }

  void Discard(void* address, size_t bytes) override {
    std::lock_guard<std::mutex> lock(mu_);
    if (on_discard) on_discard();
    for (size_t i = 0; i < bytes; i += kRegionGranularity) {
      EXPECT_EQ(committed_.count(static_cast<char*>(address) + i), 1u)
          << "was not committed";
    }
    discards_.push_back({static_cast<char*>(address), bytes});
    mapped_.Discard(address, bytes);
  }

  bool Divisible() const override { return divisible; }

  void Decommit(void* address, size_t bytes) override {
    std::lock_guard<std::mutex> lock(mu_);
    if (on_decommit) on_decommit();
    for (size_t i = 0; i < bytes; i += kRegionGranularity) {
      EXPECT_EQ(committed_.erase(static_cast<char*>(address) + i), 1u)
          << "was not committed";
    }
    decommits_.push_back({static_cast<char*>(address), bytes});
    mapped_.Decommit(address, bytes);
  }

  void Unreserve(void* address, size_t bytes) override {
    std::lock_guard<std::mutex> lock(mu_);
    reserved_ -= bytes;
    for (size_t i = 0; i < bytes; i += kRegionGranularity) {
      committed_.erase(static_cast<char*>(address) + i);
    }
    // The range stays with the arena, out of use.
    mapped_.Decommit(address, bytes);
  }

  char* base() const { return base_; }
  size_t committed_bytes() const {
    std::lock_guard<std::mutex> lock(mu_);
    return committed_.size() * kRegionGranularity;
  }
  size_t reserved_bytes() const {
    std::lock_guard<std::mutex> lock(mu_);
    return reserved_;
  }
  size_t commits() const {
    std::lock_guard<std::mutex> lock(mu_);
    return commits_;
  }
  // Sizes asked for, those refused included.
  std::vector<size_t> requests() const {
    std::lock_guard<std::mutex> lock(mu_);
    return requests_;
  }

  struct Part {
    char* address;
    size_t bytes;
  };
  std::vector<Part> discards() const {
    std::lock_guard<std::mutex> lock(mu_);
    return discards_;
  }
  std::vector<Part> offers() const {
    std::lock_guard<std::mutex> lock(mu_);
    return offers_;
  }
  std::vector<Part> decommits() const {
    std::lock_guard<std::mutex> lock(mu_);
    return decommits_;
  }

  std::atomic<size_t> max_reserve{kArena};  // at once
  std::atomic<size_t> address_space{kArena};
  std::atomic<bool> refuse_commits{false};
  std::atomic<bool> refuse_offers{false};
  std::atomic<bool> scarce{false};
  std::function<void()> on_commit;  // set before use, as the next one
  std::function<void()> on_discard;
  std::function<void()> on_decommit;
  std::atomic<bool> divisible{true};

 private:
  MappedMemory mapped_{{/*huge_pages=*/false, /*prefault=*/false}};
  char* const base_;
  mutable std::mutex mu_;
  char* next_;
  size_t reserved_ = 0;
  size_t commits_ = 0;
  std::set<char*> committed_;
  std::vector<size_t> requests_;
  std::vector<Part> discards_;
  std::vector<Part> offers_;
  std::vector<Part> decommits_;
};

class FakeClock {
 public:
  std::function<int64_t()> AsFunction() {
    return [this] { return now_ns_.load(); };
  }
  void AdvanceSeconds(int64_t seconds) { now_ns_ += seconds * 1000000000; }
  int64_t now_ns() const { return now_ns_; }

 private:
  std::atomic<int64_t> now_ns_{1000000000};
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_TESTING_FAKE_SYSTEM_MEMORY_H_
