// SPDX-License-Identifier: Apache-2.0

#ifndef TF_ALLOCATOR_LOAD_SESSION_MODEL_H_
#define TF_ALLOCATOR_LOAD_SESSION_MODEL_H_

#include <cstddef>
#include <string>

#include "tensorflow/core/protobuf/meta_graph.pb.h"
#include "tensorflow/core/public/session.h"

namespace tensorflow {

// Says in device_model.h that the SavedModel in `export_dir` is what `session`
// serves, so that its constants go to that version's pool. `meta_graph` may
// have lost its graph; room is then made as constants come. Returns the bytes
// of the graph's constants, as far as they are known. Does nothing for a
// session that has not exactly one device, a CPU.
size_t SetSessionModel(Session* session, const MetaGraphDef& meta_graph,
                       const std::string& export_dir);

// Takes that back. Tensors that lie in the pool stay there.
void ForgetSessionModel(Session* session);

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_LOAD_SESSION_MODEL_H_
