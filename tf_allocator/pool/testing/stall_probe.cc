// SPDX-License-Identifier: Apache-2.0
//
// Prints how long other threads of a process wait while memory is taken or
// given back in several ways. One thread maps, touches and unmaps 256 KiB, over
// and over, as a request that allocates does; a second one does this to a
// range:
//
//   populate, touch            faults its pages in, with MADV_POPULATE_WRITE in
//                              slices, or by writing to each
//   discard, munmap            gives them back, in slices, or all at once
//   spin                       nothing, for as many milliseconds as MIB says
//
//   stall_probe ACTION MIB [SLICE_MIB [PAUSE_US [HUGE [NICE]]]]
//
// HUGE is 1 or 0, NICE is that of the second thread. Run it on a quiet machine.

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tf_allocator/pool/system_memory.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPopulateWrite = 23;  // older C libraries lack it
constexpr size_t kPage = 4096;
constexpr size_t kRequestBytes = 256 << 10;
constexpr size_t kMaxSamples = 1 << 22;

double MicrosSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start)
      .count();
}

struct Waits {
  std::vector<double> fault_us;
  std::vector<double> map_us;  // mmap and munmap
};

Waits RunRequests(const std::atomic<bool>& stop, std::atomic<bool>* running) {
  Waits waits;
  waits.fault_us.reserve(kMaxSamples);
  waits.map_us.reserve(kMaxSamples);
  *running = true;
  while (!stop && waits.fault_us.size() + kRequestBytes / kPage < kMaxSamples) {
    auto start = Clock::now();
    void* p = mmap(nullptr, kRequestBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    waits.map_us.push_back(MicrosSince(start));
    if (p == MAP_FAILED) std::abort();
    for (size_t i = 0; i < kRequestBytes; i += kPage) {
      start = Clock::now();
      static_cast<volatile char*>(p)[i] = 1;
      waits.fault_us.push_back(MicrosSince(start));
    }
    start = Clock::now();
    munmap(p, kRequestBytes);
    waits.map_us.push_back(MicrosSince(start));
  }
  return waits;
}

void Print(const char* what, std::vector<double> us) {
  if (us.empty()) return;
  std::sort(us.begin(), us.end());
  std::printf("  %-14s %8zu   p50 %6.1f   p99.9 %8.1f   max %8.1f us\n", what,
              us.size(), us[us.size() / 2], us[us.size() * 999 / 1000],
              us.back());
}

void Touch(char* begin, size_t bytes) {
  for (size_t i = 0; i < bytes; i += kPage) {
    static_cast<volatile char*>(begin)[i] = 1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto number = [&](int i, long otherwise) {
    return argc > i ? std::atol(argv[i]) : otherwise;
  };
  const std::string action = argc > 1 ? argv[1] : "";
  const size_t mib = static_cast<size_t>(number(2, 0));
  const size_t bytes = mib << 20;
  const size_t slice = static_cast<size_t>(number(3, 4)) << 20;
  const auto pause = std::chrono::microseconds(number(4, 0));
  const std::map<std::string, std::function<void(char*, size_t)>> slices = {
      {"populate", [](char* at, size_t n) { madvise(at, n, kPopulateWrite); }},
      {"touch", Touch},
      {"discard", [](char* at, size_t n) { madvise(at, n, MADV_DONTNEED); }},
  };
  const bool gives_back = action == "discard" || action == "munmap";
  if (argc > 7 || mib == 0 || slice == 0 ||
      (slices.count(action) == 0 && action != "munmap" && action != "spin")) {
    std::fprintf(stderr,
                 "usage: stall_probe populate|touch|discard|munmap|spin MIB "
                 "[SLICE_MIB [PAUSE_US [HUGE [NICE]]]]\n");
    return 2;
  }

  const size_t align = tf_model_pool::kRegionGranularity;
  void* raw = mmap(nullptr, bytes + align, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) {
    std::perror("mmap");
    return 1;
  }
  char* const range = reinterpret_cast<char*>(
      tf_model_pool::RoundUp(reinterpret_cast<uintptr_t>(raw), align));
  madvise(range, bytes, number(5, 1) != 0 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  if (gives_back) Touch(range, bytes);

  std::atomic<bool> running{false};
  std::atomic<bool> stop{false};
  Waits waits;
  std::thread requests([&] { waits = RunRequests(stop, &running); });
  while (!running) std::this_thread::yield();
  double took_us = 0;
  std::thread worker([&] {
    setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)),
                static_cast<int>(number(6, 0)));
    const auto start = Clock::now();
    if (action == "spin") {
      while (MicrosSince(start) < 1000.0 * static_cast<double>(mib)) {
      }
    } else if (action == "munmap") {
      munmap(range, bytes);
    } else {
      for (size_t i = 0; i < bytes; i += slice) {
        slices.at(action)(range + i, std::min(slice, bytes - i));
        if (pause.count() > 0) std::this_thread::sleep_for(pause);
      }
    }
    took_us = MicrosSince(start);
  });
  worker.join();
  stop = true;
  requests.join();
  std::printf("%s took %.1f ms; meanwhile in another thread\n", action.c_str(),
              took_us / 1000);
  Print("page faults", std::move(waits.fault_us));
  Print("mmap, munmap", std::move(waits.map_us));
  return 0;
}
