// SPDX-License-Identifier: Apache-2.0
//
// The memory of all pools together: the limit to it, and what no version lies
// in any more.
//
// High-level model
// - A pool that nothing lies in is on standby. As much is kept on standby as
//   the largest version alive needs; the rest is given back.
// - A thread does that, in slices with pauses between them. It starts when
//   there is work for the first time, and lets the system take what is kept if
//   memory runs short.
// - A load that is short of memory does not wait for the thread: it gives
//   standby memory back itself, and as much as it needs.

#ifndef TF_ALLOCATOR_POOL_MEMORY_KEEPER_H_
#define TF_ALLOCATOR_POOL_MEMORY_KEEPER_H_

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "tf_allocator/pool/memory_headroom.h"
#include "tf_allocator/pool/model_pool.h"
#include "tf_allocator/pool/pool_policy.h"
#include "tf_allocator/pool/pool_table.h"

namespace tf_model_pool {

// Thread-safe.
class MemoryKeeper : public MemoryBudget {
 public:
  // All functions must be set.
  struct Options {
    PoolPolicy policy;
    std::function<int64_t()> now_ns;
    std::function<MemoryHeadroom()> headroom;
    // Between two slices of memory that is given back. A GiB takes a third of
    // a second, and no thread waits for more than one slice.
    std::chrono::nanoseconds release_pause{0};
    bool has_thread = true;  // false: only Tidy() does what the thread does
    // Makes memory usable ahead of need, first of all that Tidy() does.
    std::function<void()> prepare;
  };

  // `pools` is not owned, and outlives the keeper.
  MemoryKeeper(Options options, const PoolTable* pools);
  ~MemoryKeeper() override;

  // With `make_room`, gives standby memory back, least recently used first, if
  // that makes room, before it refuses; and if the system has less left than
  // `bytes`.
  bool Charge(size_t bytes, bool make_room) override;
  void Refund(size_t bytes) override;
  bool MakeRoom() override;

  // Gives all standby memory back, in slices with pauses between them. A load
  // that needs the range keeps what is left; one that is short of memory goes
  // first, on its own thread. Returns bytes.
  size_t Trim();

  // The thread's work whenever a pool has become idle: prepares, offers standby
  // memory to the system, and gives back what the policy does not keep. Returns
  // nanoseconds until there is more to do; -1 = nothing, unless something
  // happens.
  int64_t Tidy();

  // Makes whoever waits in a pause look up; and with `to_look` the thread do
  // its work.
  void Wake(bool to_look);

  // Notes the need of the versions alive, while they are there to be seen.
  void NoteNeed() { BytesToKeep(); }

  // Ends the thread, before what `prepare` uses is gone.
  void Stop();

  size_t bytes_charged() const { return charged_; }
  size_t trimmed_bytes() const { return trimmed_bytes_; }  // ever

  // Around fork(2), on the thread that forks. In the child the thread starts
  // anew when it is needed.
  void BeforeFork() { background_mu_.lock(); }
  void AfterFork(bool in_child);

 private:
  // With memory, least recently used first.
  std::vector<ModelPool*> Standby() const;
  size_t StandbyBytes() const;
  // The need of the largest version alive; if none is, what it needed last.
  size_t BytesToKeep();
  size_t TrimPool(ModelPool* standby, bool paced, size_t most);
  // Gives standby memory back on this thread, up to `step` bytes of a pool at a
  // time, until `enough` or none is left.
  void TrimUntil(size_t step, const std::function<bool()>& enough);
  // Waits between two slices. Returns false as soon as somebody waits for the
  // pool or its memory.
  bool PauseRelease(const ModelPool& pool);
  void Loop();

  const Options options_;
  const PoolTable& pools_;
  std::atomic<size_t> charged_{0};
  std::atomic<size_t> kept_{0};  // what BytesToKeep() last returned
  std::atomic<size_t> trimmed_bytes_{0};

  // Held while memory is given back, so that a load that needs it waits. Taken
  // after growth_mu_ of a pool, before everything else.
  std::mutex trim_mu_;

  std::mutex background_mu_;
  std::condition_variable background_wakes_;
  bool woken_ = false;          // the thread has to look
  int waiting_for_memory_ = 0;  // loads
  bool stopping_ = false;
  bool runs_ = false;
  pthread_t thread_;
};

}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_POOL_MEMORY_KEEPER_H_
