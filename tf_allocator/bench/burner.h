// SPDX-License-Identifier: Apache-2.0
//
// A child process in the idle scheduling class that uses a CPU, or a CPU and
// memory bandwidth, for a while: the control of the benchmark. On a small
// machine no loader that uses a core can do better than the control.

#ifndef TF_ALLOCATOR_BENCH_BURNER_H_
#define TF_ALLOCATOR_BENCH_BURNER_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

namespace tf_model_pool {
namespace bench {

// The first argument with which this program is a burner.
inline constexpr char kBurnFlag[] = "--burn";

// The parent's side. Thread-compatible.
class Burner {
 public:
  // Starts the child, which then waits: it is there before the run begins, so
  // that starting a program disturbs nothing. Returns nullptr and fills `error`
  // if that fails. The child dies with the thread that calls this.
  static std::unique_ptr<Burner> Create(std::string* error);
  ~Burner();  // kills the child
  Burner(const Burner&) = delete;
  Burner& operator=(const Burner&) = delete;

  // Burns until Stop. With `bytes` > 0 also writes that many bytes to memory,
  // spread evenly over `duration_ns`. Returns false if the child is gone.
  bool Start(int64_t duration_ns, int64_t bytes);
  // Returns the bytes that it wrote since Start.
  int64_t Stop();

  pid_t pid() const { return pid_; }
  // Its scheduling class: "idle", or another if the kernel refused.
  std::string Policy() const;

  struct Control;  // what parent and child share

 private:
  Burner() = default;

  pid_t pid_ = -1;
  int wake_ = -1;  // write end of the pipe that the child waits on
  Control* control_ = nullptr;
};

// The child's side: does not return before its parent is gone. The arguments
// are those that Burner gives.
int BurnerMain(int argc, char** argv);

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_BURNER_H_
