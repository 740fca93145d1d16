// SPDX-License-Identifier: Apache-2.0
//
// Sizes that the index of a checkpoint promises, kept for a moment.

#ifndef TF_ALLOCATOR_RESTORE_CHECKPOINT_INDEX_H_
#define TF_ALLOCATOR_RESTORE_CHECKPOINT_INDEX_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/platform/tstring.h"

namespace tensorflow {

struct IndexedTensor {
  DataType dtype;
  uint64_t elements;
};

// Looks up what the index of the checkpoint at `prefix` says of the named
// tensors, in their order, and what its data files hold together. False if the
// index cannot be read or has no such tensor.
//
// A model may be restored by an op for every variable. So the process keeps
// what it has read of the last few checkpoints while their ops follow each
// other; it keeps no file open. After the first op of a checkpoint, which most
// often is the only one, each that asks for something new reads on for twice as
// much, up to a limit. A checkpoint that is replaced while its ops run may be
// described by what it was before: good enough to reserve memory, and for
// nothing else.
//
// Thread-safe: ops of one checkpoint wait for each other, so that one of them
// reads. A forked child starts with nothing kept and no lock held.
bool LookUpInIndex(const std::string& prefix, absl::Span<const tstring> names,
                   std::vector<IndexedTensor>* tensors, uint64_t* data_bytes);

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_RESTORE_CHECKPOINT_INDEX_H_
