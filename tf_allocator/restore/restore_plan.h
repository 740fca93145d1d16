// SPDX-License-Identifier: Apache-2.0
//
// A restore op's work, read from its graph: which variable gets which tensor of
// the checkpoint.
//
// High-level model
// - A session that runs a restore op of 3,000 variables first places, optimizes
//   and instantiates a graph of some 10,000 nodes, which takes several times as
//   long as reading the tensors, and then gives its threads 3,000 assignments
//   to run, ahead of any request that shares them.
// - Nearly always that graph says no more than "assign tensor K to variable V"
//   for each variable. If so, it is a plan, and nothing has to be run.
// - If a graph does anything else, however little (a cast, a slice, a hash
//   table, a reference variable), it is no plan, and TensorFlow runs it as it
//   always did.

#ifndef TF_ALLOCATOR_RESTORE_RESTORE_PLAN_H_
#define TF_ALLOCATOR_RESTORE_RESTORE_PLAN_H_

#include <string>
#include <vector>

#include "tensorflow/core/framework/graph.pb.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/protobuf/config.pb.h"

namespace tensorflow {

struct RestorePlan {
  struct Variable {
    std::string container;  // "" = the resource manager's default
    std::string name;
    DataType dtype;
    std::string key;  // in the checkpoint
  };
  std::vector<Variable> variables;
  // The index of the feed that is the checkpoint's prefix; -1 if there is
  // nothing to restore.
  int prefix_feed = -1;

  // Reads the plan of running `options` in `graph`. Returns "" and fills
  // `*plan`, or returns why it is no plan, for people. A target that only
  // groups nothing (an empty init op) is a plan without variables.
  static std::string Make(const GraphDef& graph, const CallableOptions& options,
                          RestorePlan* plan);
};

}  // namespace tensorflow

#endif  // TF_ALLOCATOR_RESTORE_RESTORE_PLAN_H_
