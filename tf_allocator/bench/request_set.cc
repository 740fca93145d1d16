// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/bench/request_set.h"

#include <map>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/lib/io/record_reader.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/platform/tstring.h"
#include "tensorflow/core/protobuf/worker.pb.h"

namespace tf_model_pool {
namespace bench {

std::string ReadRequests(const std::string& path, size_t most,
                         RequestSet* requests) {
  std::unique_ptr<tensorflow::RandomAccessFile> file;
  auto status = tensorflow::Env::Default()->NewRandomAccessFile(path, &file);
  if (!status.ok()) return std::string(status.message());
  tensorflow::io::SequentialRecordReader reader(file.get());
  const auto wrong = [&](const std::string& what) {
    return path + ": record " + std::to_string(requests->requests.size()) +
           ": " + what;
  };
  tensorflow::tstring record;
  while ((status = reader.ReadRecord(&record)).ok()) {
    tensorflow::RunGraphRequest message;
    if (!message.ParseFromArray(record.data(),
                                static_cast<int>(record.size()))) {
      return wrong("is not a tensorflow.RunGraphRequest");
    }
    std::map<std::string, tensorflow::TensorProto> by_key;
    for (auto& input : *message.mutable_send()) {
      tensorflow::Tensor tensor;
      if (!tensor.FromProto(input.tensor())) {
        return wrong("input \"" + input.name() + "\" is not a tensor");
      }
      by_key[input.name()] = std::move(*input.mutable_tensor());
    }
    std::vector<std::string> inputs;
    std::vector<tensorflow::TensorProto> tensors;
    for (auto& [key, tensor] : by_key) {
      inputs.push_back(key);
      tensors.push_back(std::move(tensor));
    }
    if (requests->requests.empty()) requests->inputs = inputs;
    if (inputs != requests->inputs) {
      return wrong("has other inputs than the records before it");
    }
    requests->requests.push_back(std::move(tensors));
    if (most > 0 && requests->requests.size() > most) {
      return path + ": holds more than " + std::to_string(most) + " requests";
    }
  }
  if (!absl::IsOutOfRange(status)) {  // which is the end of the file
    return wrong(std::string(status.message()));
  }
  if (requests->requests.empty()) return path + ": holds no request";
  return "";
}

}  // namespace bench
}  // namespace tf_model_pool
