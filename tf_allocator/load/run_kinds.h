// SPDX-License-Identifier: Apache-2.0
//
// Kinds of runs: what a session is fed and asked for, by name.
//
// A DirectSession makes executors (graph optimization, kernels) for each kind
// in its first run, which takes as long as hundreds of requests. It makes them
// before it looks at the types of what is fed: a run that feeds a type that the
// graph does not take fails, runs no kernel, and leaves them made.

#ifndef TF_ALLOCATOR_LOAD_RUN_KINDS_H_
#define TF_ALLOCATOR_LOAD_RUN_KINDS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/protobuf/meta_graph.pb.h"
#include "tensorflow/core/public/session.h"

namespace tensorflow {

struct RunKind {
  std::vector<std::string> feeds;
  std::vector<std::string> fetches;
  std::vector<std::string> targets;
};

// The same for the same names in another order, as sessions see it; not 0.
uint64_t HashOf(const RunKind& kind);
uint64_t HashOf(const std::vector<std::pair<std::string, Tensor>>& feeds,
                const std::vector<std::string>& fetches,
                const std::vector<std::string>& targets);

// The runs that serving asks for: every signature that has inputs and outputs,
// with all of them; the default one first, the others by name. Left out are
// those that never serve (init op, training), and what is not dense tensors.
std::vector<RunKind> ServedKinds(const MetaGraphDef& meta_graph);

// Makes the executors for `kind` without running a kernel. Returns whether they
// are made: not of a kind without feeds, nor of one that the graph lacks.
bool PrepareRun(Session* session, const RunKind& kind);

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_LOAD_RUN_KINDS_H_
