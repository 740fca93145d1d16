// SPDX-License-Identifier: Apache-2.0
//
// Tensors of a checkpoint, read straight into their buffers.

#ifndef TF_ALLOCATOR_RESTORE_TENSOR_READER_H_
#define TF_ALLOCATOR_RESTORE_TENSOR_READER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/platform/file_system.h"
#include "tensorflow/core/util/tensor_bundle/tensor_bundle.h"

namespace tensorflow {

// Reads as BundleReader does, checksums included, but large tensors in pieces
// that are still in the cache when their checksum is taken. What is not a plain
// tensor (strings, slices, other byte order), what is not a local file and
// every error is left to BundleReader. All readers of the process together keep
// to TF_MODEL_POOL_READ_MB_PER_S. Not safe for concurrent use.
class TensorReader {
 public:
  explicit TensorReader(const std::string& prefix);
  // With TF_MODEL_POOL_DROP_CACHE=on nothing of the local data files is left in
  // the page cache, neither then nor of large tensors before.
  ~TensorReader();
  TensorReader(const TensorReader&) = delete;
  TensorReader& operator=(const TensorReader&) = delete;

  absl::Status status() const { return index_.status(); }

  // REQUIRES: status().ok(), as for all that follow.
  absl::Status LookUp(absl::string_view key, DataType* dtype,
                      TensorShape* shape) {
    return index_.LookupDtypeAndShape(key, dtype, shape);
  }

  // `tensor` has the type and shape that the checkpoint has for `key`.
  absl::Status Read(absl::string_view key, Tensor* tensor);

 private:
  struct DataFile {
    std::unique_ptr<RandomAccessFile> file;  // nullptr: cannot be read
    int cached = -1;  // its descriptor if the page cache is looked after
  };

  bool ReadInPieces(absl::string_view key, Tensor* tensor);
  DataFile& Open(int32_t shard);

  const std::string prefix_;
  BundleReader index_;
  int32_t shards_ = 0;  // 0: not to be read in pieces
  std::map<int32_t, DataFile> data_;
};

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_RESTORE_TENSOR_READER_H_
