// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/burner.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <sstream>
#include <vector>

#include "tf_allocator/bench/counters.h"

namespace tf_model_pool {
namespace bench {

// In memory that parent and child share.
struct Burner::Control {
  std::atomic<int64_t> ready{0};  // the child waits for its first burn
  std::atomic<int64_t> burning{0};
  std::atomic<int64_t> duration_ns{0};
  std::atomic<int64_t> bytes{0};
  std::atomic<int64_t> written{0};
};
static_assert(std::atomic<int64_t>::is_always_lock_free,
              "parent and child share them");

namespace {

// Larger than caches, so that streaming reaches memory.
constexpr size_t kBufferBytes = size_t{64} << 20;
constexpr size_t kChunkBytes = size_t{256} << 10;

// The file that this function's code is in. If the program was started
// through the loader, /proc/self/exe is that.
std::string ProgramPath() {
  const auto address =
      reinterpret_cast<uintptr_t>(reinterpret_cast<void*>(&BurnerMain));
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    char dash = 0;
    std::istringstream words(line);
    words >> std::hex >> begin >> dash >> end;
    const size_t path = line.find('/');
    if (address >= begin && address < end && path != std::string::npos) {
      return line.substr(path);
    }
  }
  return "";
}

std::string ExecutablePath() {
  char path[4096];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof(path));
  return size <= 0 ? std::string()
                   : std::string(path, static_cast<size_t>(size));
}

Burner* Failed(const char* what, int error, std::string* text) {
  *text = std::string("burner: ") + what + ": " + std::strerror(error);
  return nullptr;
}

}  // namespace

std::unique_ptr<Burner> Burner::Create(std::string* error) {
  std::unique_ptr<Burner> burner(new Burner);
  const int memory = memfd_create("burner", MFD_CLOEXEC);
  if (memory < 0 || ftruncate(memory, sizeof(Control)) != 0) {
    Failed("memfd_create", errno, error);
    return nullptr;
  }
  void* mapped = mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE,
                      MAP_SHARED, memory, 0);
  int ends[2] = {-1, -1};
  if (mapped == MAP_FAILED || pipe2(ends, O_CLOEXEC) != 0) {
    Failed("mmap or pipe", errno, error);
    close(memory);
    return nullptr;
  }
  burner->control_ = new (mapped) Control;
  burner->wake_ = ends[1];

  const std::string program = ProgramPath();
  const std::string executable = ExecutablePath();
  std::vector<std::string> arguments = {
      program, kBurnFlag, std::to_string(memory), std::to_string(ends[0]),
      std::to_string(getpid())};
  if (executable != program) {
    arguments.insert(arguments.begin(), executable);
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  // Onto itself: that takes the close-on-exec mark away.
  posix_spawn_file_actions_adddup2(&files, memory, memory);
  posix_spawn_file_actions_adddup2(&files, ends[0], ends[0]);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  // Unlike fork, this copies no page table of a process of gigabytes.
  const int status = posix_spawn(&burner->pid_, executable.c_str(), &files,
                                 &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  close(memory);
  close(ends[0]);
  if (status != 0) {
    burner->pid_ = -1;
    Failed(executable.c_str(), status, error);
    return nullptr;
  }
  // The child is in the idle class by then.
  while (burner->control_->ready.load() == 0) {
    int ended = 0;
    if (waitpid(burner->pid_, &ended, WNOHANG) == burner->pid_) {
      burner->pid_ = -1;
      *error = "burner: the child ended before it began";
      return nullptr;
    }
    usleep(1000);
  }
  return burner;
}

Burner::~Burner() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  if (wake_ >= 0) close(wake_);
  if (control_ != nullptr) munmap(control_, sizeof(Control));
}

bool Burner::Start(int64_t duration_ns, int64_t bytes) {
  control_->duration_ns.store(duration_ns);
  control_->bytes.store(bytes);
  control_->written.store(0);
  control_->burning.store(1);
  const char byte = 0;
  return write(wake_, &byte, 1) == 1 && kill(pid_, 0) == 0;
}

int64_t Burner::Stop() {
  control_->burning.store(0);
  return control_->written.load();
}

std::string Burner::Policy() const {
  switch (sched_getscheduler(pid_)) {
    case SCHED_IDLE:
      return "idle";
    case SCHED_OTHER:
      return "other";
    case SCHED_BATCH:
      return "batch";
    default:
      return "unknown";
  }
}

namespace {

// Writes at the pace that gets `bytes` written at the end; spins otherwise.
void BurnOnce(std::atomic<int64_t>* burning, int64_t duration_ns, int64_t bytes,
              std::atomic<int64_t>* written, char* from, char* to) {
  const int64_t begin_ns = MonotonicNs();
  size_t offset = 0;
  while (burning->load(std::memory_order_relaxed) != 0) {
    const int64_t passed_ns = MonotonicNs() - begin_ns;
    const double due =
        duration_ns <= 0 ? static_cast<double>(bytes)
                         : std::min(1.0, static_cast<double>(passed_ns) /
                                             static_cast<double>(duration_ns)) *
                               static_cast<double>(bytes);
    const int64_t done = written->load(std::memory_order_relaxed);
    if (static_cast<double>(done) >= due) continue;
    const size_t size = static_cast<size_t>(
        std::min<int64_t>(static_cast<int64_t>(kChunkBytes), bytes - done));
    std::memcpy(to + offset, from + offset, size);
    offset = (offset + kChunkBytes) % kBufferBytes;
    written->store(done + static_cast<int64_t>(size),
                   std::memory_order_relaxed);
  }
}

}  // namespace

int BurnerMain(int argc, char** argv) {
  // --burn MEMORY PIPE PARENT
  if (argc < 5) return 2;
  const int memory = std::atoi(argv[2]);
  const int wake = std::atoi(argv[3]);
  const pid_t parent = static_cast<pid_t>(std::atoi(argv[4]));
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) return 1;  // it died before the line above
  sched_param parameters{};
  if (sched_setscheduler(0, SCHED_IDLE, &parameters) != 0) return 1;
  void* mapped = mmap(nullptr, sizeof(Burner::Control), PROT_READ | PROT_WRITE,
                      MAP_SHARED, memory, 0);
  if (mapped == MAP_FAILED) return 1;
  auto* control = static_cast<Burner::Control*>(mapped);
  // Touched now, so that burning is not page faults.
  std::vector<char> from(kBufferBytes, 1);
  std::vector<char> to(kBufferBytes, 2);
  control->ready.store(1);
  char byte = 0;
  while (read(wake, &byte, 1) == 1) {
    BurnOnce(&control->burning, control->duration_ns.load(),
             control->bytes.load(), &control->written, from.data(), to.data());
  }
  return 0;
}

}  // namespace bench
}  // namespace tf_model_pool
