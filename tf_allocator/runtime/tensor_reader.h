// SPDX-License-Identifier: Apache-2.0
//
// Tensors of a checkpoint, read straight into their buffers.

#ifndef TF_ALLOCATOR_RUNTIME_TENSOR_READER_H_
#define TF_ALLOCATOR_RUNTIME_TENSOR_READER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/file_system.h"
#include "tensorflow/core/protobuf/tensor_bundle.pb.h"
#include "tensorflow/core/util/tensor_bundle/tensor_bundle.h"

namespace tensorflow {

// Reads as BundleReader does, checksums included, but large tensors in pieces
// that are still in the cache when their checksum is taken, and with pauses if
// wanted. What is not a plain tensor (strings, slices, other byte order), what
// is not a local file and every error is left to BundleReader. Not safe for
// concurrent use.
class TensorReader {
 public:
  // With `pauses`, lets go of the CPU for a moment after every piece.
  TensorReader(const std::string& prefix, bool pauses);

  absl::Status status() const { return index_.status(); }

  // `tensor` has the type and shape that the checkpoint has for `key`.
  absl::Status Read(absl::string_view key, Tensor* tensor);

 private:
  bool ReadInPieces(absl::string_view key, Tensor* tensor);
  RandomAccessFile* DataFile(int32_t shard);

  const std::string prefix_;
  const bool pauses_;
  BundleReader index_;
  int32_t shards_ = 0;  // 0: not to be read in pieces
  std::map<int32_t, std::unique_ptr<RandomAccessFile>> data_;
};

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_RUNTIME_TENSOR_READER_H_
