// SPDX-License-Identifier: Apache-2.0
//
// Recorded requests of a model, read from a file.

#ifndef TF_ALLOCATOR_BENCH_REQUEST_SET_H_
#define TF_ALLOCATOR_BENCH_REQUEST_SET_H_

#include <string>
#include <vector>

#include "tensorflow/core/framework/tensor.pb.h"

namespace tf_model_pool {
namespace bench {

struct RequestSet {
  std::vector<std::string> inputs;  // keys of the signature, sorted
  // One per request: its inputs in that order.
  std::vector<std::vector<tensorflow::TensorProto>> requests;
};

// Reads a TFRecord file of tensorflow.RunGraphRequest, whose `send` fields are
// the inputs by key. Returns "" or what is wrong with the file: it has to hold
// at least one request and at most `most` of them, 0 meaning any number, and
// all requests have to have the same inputs.
std::string ReadRequests(const std::string& path, size_t most,
                         RequestSet* requests);

}  // namespace bench
}  // namespace tf_model_pool

#endif  // TF_ALLOCATOR_BENCH_REQUEST_SET_H_
