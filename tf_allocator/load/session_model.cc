// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/load/session_model.h"

#include <vector>

#include "tensorflow/cc/saved_model/constants.h"
#include "tensorflow/core/common_runtime/device_mgr.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/device.h"
#include "tensorflow/core/framework/function.pb.h"
#include "tensorflow/core/framework/graph.pb.h"
#include "tensorflow/core/framework/node_def.pb.h"
#include "tensorflow/core/framework/tensor.pb.h"
#include "tensorflow/core/platform/path.h"
#include "tf_allocator/device/constant_tensor.h"
#include "tf_allocator/device/device_model.h"

namespace tensorflow {
namespace {

// nullptr if there is not exactly one device, a CPU.
Device* OnlyCpu(Session* session) {
  const DeviceMgr* manager = nullptr;
  if (!session->LocalDeviceManager(&manager).ok()) return nullptr;
  const std::vector<Device*> devices = manager->ListDevices();
  if (devices.size() != 1 || devices[0]->device_type() != DEVICE_CPU) {
    return nullptr;
  }
  return devices[0];
}

template <typename Nodes>
size_t BytesOfConstants(const Nodes& nodes) {
  size_t bytes = 0;
  for (const NodeDef& node : nodes) {
    if (node.op() != "Const") continue;
    const auto value = node.attr().find("value");
    if (value == node.attr().end()) continue;
    const TensorProto& proto = value->second.tensor();
    // A shape alone, or one value for all elements, promises more than is
    // there; constants like that take their room as they are made.
    if (proto.tensor_content().empty()) continue;
    bytes += ConstantBytesInPool(proto);
  }
  return bytes;
}

}  // namespace

size_t SetSessionModel(Session* session, const MetaGraphDef& meta_graph,
                       const std::string& export_dir) {
  const Device* device = OnlyCpu(session);
  if (device == nullptr) return 0;
  const GraphDef& graph = meta_graph.graph_def();
  size_t bytes = BytesOfConstants(graph.node());
  for (const FunctionDef& function : graph.library().function()) {
    bytes += BytesOfConstants(function.node_def());
  }
  SetDeviceModel(device->attributes().incarnation(),
                 io::JoinPath(export_dir, kSavedModelVariablesDirectory,
                              kSavedModelVariablesFilename),
                 bytes);
  return bytes;
}

void ForgetSessionModel(Session* session) {
  const Device* device = OnlyCpu(session);
  if (device != nullptr) ForgetDevice(device->attributes().incarnation());
}

}  // namespace tensorflow
