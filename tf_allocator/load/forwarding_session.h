// SPDX-License-Identifier: Apache-2.0
//
// A session that is another one, for classes that stand in front of a session
// and change a few of its functions.

#ifndef TF_ALLOCATOR_LOAD_FORWARDING_SESSION_H_
#define TF_ALLOCATOR_LOAD_FORWARDING_SESSION_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tensorflow/core/framework/device_attributes.pb.h"
#include "tensorflow/core/framework/graph.pb.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/threadpool_options.h"
#include "tensorflow/core/protobuf/config.pb.h"
#include "tensorflow/core/public/session.h"

namespace tensorflow {

// Every virtual function of Session calls the same one of `session`.
class ForwardingSession : public Session {
 public:
  // `session` outlives this object.
  explicit ForwardingSession(Session* session) : session_(session) {}

  using Inputs = std::vector<std::pair<std::string, Tensor>>;
  using Names = std::vector<std::string>;

  absl::Status Create(const GraphDef& graph) override {
    return session_->Create(graph);
  }
  absl::Status Create(GraphDef&& graph) override {
    return session_->Create(std::move(graph));
  }
  absl::Status Create(const RunOptions& options,
                      const GraphDef& graph) override {
    return session_->Create(options, graph);
  }
  absl::Status Create(const RunOptions& options, GraphDef&& graph) override {
    return session_->Create(options, std::move(graph));
  }
  absl::Status Extend(const GraphDef& graph) override {
    return session_->Extend(graph);
  }
  absl::Status Extend(GraphDef&& graph) override {
    return session_->Extend(std::move(graph));
  }
  absl::Status Extend(const RunOptions& options,
                      const GraphDef& graph) override {
    return session_->Extend(options, graph);
  }
  absl::Status Extend(const RunOptions& options, GraphDef&& graph) override {
    return session_->Extend(options, std::move(graph));
  }
  absl::Status Run(const Inputs& inputs, const Names& outputs,
                   const Names& targets,
                   std::vector<Tensor>* tensors) override {
    return session_->Run(inputs, outputs, targets, tensors);
  }
  absl::Status Run(const RunOptions& options, const Inputs& inputs,
                   const Names& outputs, const Names& targets,
                   std::vector<Tensor>* tensors,
                   RunMetadata* metadata) override {
    return session_->Run(options, inputs, outputs, targets, tensors, metadata);
  }
  absl::Status Run(const RunOptions& options, const Inputs& inputs,
                   const Names& outputs, const Names& targets,
                   std::vector<Tensor>* tensors, RunMetadata* metadata,
                   const thread::ThreadPoolOptions& pools) override {
    return session_->Run(options, inputs, outputs, targets, tensors, metadata,
                         pools);
  }
  absl::Status PRunSetup(const Names& inputs, const Names& outputs,
                         const Names& targets, std::string* handle) override {
    return session_->PRunSetup(inputs, outputs, targets, handle);
  }
  absl::Status PRun(const std::string& handle, const Inputs& inputs,
                    const Names& outputs,
                    std::vector<Tensor>* tensors) override {
    return session_->PRun(handle, inputs, outputs, tensors);
  }
  absl::Status ListDevices(std::vector<DeviceAttributes>* devices) override {
    return session_->ListDevices(devices);
  }
  absl::Status LocalDeviceManager(const DeviceMgr** devices) override {
    return session_->LocalDeviceManager(devices);
  }
  absl::Status Close() override { return session_->Close(); }
  absl::Status Close(const RunOptions& options) override {
    return session_->Close(options);
  }
  absl::Status MakeCallable(const CallableOptions& options,
                            CallableHandle* handle) override {
    return session_->MakeCallable(options, handle);
  }
  absl::Status RunCallable(CallableHandle handle,
                           const std::vector<Tensor>& feeds,
                           std::vector<Tensor>* fetches,
                           RunMetadata* metadata) override {
    return session_->RunCallable(handle, feeds, fetches, metadata);
  }
  absl::Status RunCallable(CallableHandle handle,
                           const std::vector<Tensor>& feeds,
                           std::vector<Tensor>* fetches, RunMetadata* metadata,
                           const thread::ThreadPoolOptions& pools) override {
    return session_->RunCallable(handle, feeds, fetches, metadata, pools);
  }
  absl::Status ReleaseCallable(CallableHandle handle) override {
    return session_->ReleaseCallable(handle);
  }
  absl::Status Finalize() override { return session_->Finalize(); }

 protected:
  Session* session() const { return session_; }

 private:
  Session* const session_;
};

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_LOAD_FORWARDING_SESSION_H_
