// SPDX-License-Identifier: Apache-2.0
//
// The model pools of this process, if it has any: the driver also runs on a
// TensorFlow without them, so it looks their functions up at run time.

#ifndef TF_ALLOCATOR_BENCH_POOL_PROBE_H_
#define TF_ALLOCATOR_BENCH_POOL_PROBE_H_

#include <cstdint>
#include <string>

namespace tf_model_pool {
namespace bench {

// Thread-safe.
class PoolProbe {
 public:
  // True if restored tensors go to pools; if not, Status() says why.
  bool Active() const;
  std::string Status() const;
  // Times that pools made memory usable, ever; 0 without pools.
  int64_t Mappings() const;
  // Bytes in use in the pool of the SavedModel in `directory`; 0 without one.
  int64_t BytesOf(const std::string& directory) const;
  // Returns when sessions that were dropped before have ended.
  void WaitForUnloads() const;
};

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_POOL_PROBE_H_
