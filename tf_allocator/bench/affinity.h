// SPDX-License-Identifier: Apache-2.0
//
// On which CPUs a thread may run. Threads inherit it from the one that starts
// them.

#ifndef TF_ALLOCATOR_BENCH_AFFINITY_H_
#define TF_ALLOCATOR_BENCH_AFFINITY_H_

#include <vector>

namespace tf_model_pool {
namespace bench {

// The CPUs that the calling thread may use.
std::vector<int> ThreadAffinity();

// Restricts the calling thread. The kernel leaves out CPUs that are not there;
// returns false if none is left.
bool SetThreadAffinity(const std::vector<int>& cpus);

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_AFFINITY_H_
