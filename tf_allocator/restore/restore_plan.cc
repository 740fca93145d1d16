// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/restore/restore_plan.h"

#include <cstdlib>
#include <deque>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "absl/strings/string_view.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/function.pb.h"
#include "tensorflow/core/framework/node_def.pb.h"
#include "tensorflow/core/framework/resource_handle.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/tstring.h"
#include "tensorflow/core/util/device_name_utils.h"

namespace tensorflow {
namespace {

// More than any chain of identities has.
constexpr int kMostEdges = 100'000;

using View = absl::string_view;

View AsView(const std::string& s) { return View(s.data(), s.size()); }

const AttrValue* FindAttr(const NodeDef& node, const char* name) {
  const auto it = node.attr().find(name);
  return it == node.attr().end() ? nullptr : &it->second;
}

// A graph, or a call of a function with what its arguments stand for.
struct Scope {
  std::unordered_map<View, const NodeDef*> nodes;
  const Scope* caller = nullptr;
  const NodeDef* call = nullptr;
  std::unordered_map<View, int> arguments;  // name -> index into call's inputs
};

// An end of a data edge.
struct Source {
  const Scope* scope = nullptr;
  const NodeDef* node = nullptr;  // nullptr: fed
  int output = 0;
  int feed = -1;
};

class Reader {
 public:
  Reader(const GraphDef& graph, const CallableOptions& options,
         RestorePlan* plan)
      : graph_(graph), options_(options), plan_(plan) {}

  bool Read() {
    if (options_.target_size() == 0 || options_.fetch_size() > 0 ||
        options_.tensor_connection_size() > 0 ||
        options_.feed_devices_size() > 0) {
      return No("it does more than run targets");
    }
    for (int i = 0; i < options_.feed_size(); ++i) {
      View name = AsView(options_.feed(i));
      if (name.size() > 2 && name.substr(name.size() - 2) == ":0") {
        name.remove_suffix(2);
      }
      feeds_[name] = i;
    }
    Scope* top = NewScope();
    top->nodes.reserve(graph_.node_size());
    for (const NodeDef& node : graph_.node()) {
      top->nodes[AsView(node.name())] = &node;
    }
    for (const std::string& target : options_.target()) {
      if (!Visit(top, AsView(target))) return false;
    }
    return true;
  }

  const std::string& why() const { return why_; }

 private:
  struct Restore {
    std::vector<std::string> keys;
    std::vector<DataType> dtypes;
  };

  bool No(std::string why) {
    if (why_.empty()) why_ = std::move(why);
    return false;
  }

  Scope* NewScope() {
    scopes_.emplace_back();
    return &scopes_.back();
  }

  // Collects what running node `name` does besides computing its outputs.
  bool Visit(const Scope* scope, View name) {
    std::vector<const NodeDef*> pending;
    if (!Push(scope, name, &pending)) return false;
    while (!pending.empty()) {
      const NodeDef* node = pending.back();
      pending.pop_back();
      const std::string& op = node->op();
      if (op == "AssignVariableOp") {
        if (!Assign(scope, *node)) return false;
      } else if (op == "StatefulPartitionedCall" || op == "PartitionedCall") {
        if (!Call(scope, *node)) return false;
      } else if (op != "NoOp" && op != "Identity" && op != "RestoreV2" &&
                 op != "Const" && op != "VarHandleOp" && op != "Placeholder" &&
                 op != "PlaceholderWithDefault") {
        return No("it has a node of op " + op);
      }
      for (const std::string& input : node->input()) {
        View end = AsView(input);
        if (!end.empty() && end[0] == '^') {
          end.remove_prefix(1);
        } else {
          end = end.substr(0, end.find(':'));
        }
        if (!Push(scope, end, &pending)) return false;
      }
    }
    return true;
  }

  bool Push(const Scope* scope, View name,
            std::vector<const NodeDef*>* pending) {
    if (scope->arguments.count(name) > 0 ||
        (scope->caller == nullptr && feeds_.count(name) > 0)) {
      return true;
    }
    const auto it = scope->nodes.find(name);
    if (it == scope->nodes.end()) {
      return No("there is no node " + std::string(name));
    }
    if (visited_.insert({scope, it->second}).second) {
      pending->push_back(it->second);
    }
    return true;
  }

  bool Call(const Scope* scope, const NodeDef& node) {
    const AttrValue* f = FindAttr(node, "f");
    const FunctionDef* function = nullptr;
    if (f != nullptr) {
      for (const FunctionDef& each : graph_.library().function()) {
        if (each.signature().name() == f->func().name()) function = &each;
      }
    }
    if (function == nullptr) return No("a call's function is not in the graph");
    if (scope->caller != nullptr) return No("a function calls another");
    Scope* body = NewScope();
    body->caller = scope;
    body->call = &node;
    for (int i = 0; i < function->signature().input_arg_size(); ++i) {
      const auto& argument = function->signature().input_arg(i);
      if (!argument.number_attr().empty() ||
          !argument.type_list_attr().empty()) {
        return No("a function takes a list of arguments");
      }
      body->arguments[AsView(argument.name())] = i;
    }
    for (const NodeDef& each : function->node_def()) {
      body->nodes[AsView(each.name())] = &each;
    }
    for (const NodeDef& each : function->node_def()) {
      if (!Visit(body, AsView(each.name()))) return false;
    }
    return true;
  }

  bool Assign(const Scope* scope, const NodeDef& node) {
    if (!OnCpu(node) || node.input_size() < 2) return No("an odd assignment");
    const AttrValue* validates = FindAttr(node, "validate_shape");
    if (validates != nullptr && validates->b()) {
      return No("an assignment validates its shape");
    }
    const AttrValue* dtype = FindAttr(node, "dtype");
    Source handle;
    Source value;
    if (!Follow(scope, AsView(node.input(0)), &handle) ||
        !Follow(scope, AsView(node.input(1)), &value)) {
      return false;
    }
    if (dtype == nullptr || handle.node == nullptr ||
        handle.node->op() != "VarHandleOp" || !OnCpu(*handle.node)) {
      return No("an assignment is not to a variable of the graph");
    }
    if (value.node == nullptr || value.node->op() != "RestoreV2") {
      return No("a variable is not assigned what was restored");
    }
    const Restore* restore = FindRestore(value);
    if (restore == nullptr) return false;
    const size_t index = static_cast<size_t>(value.output);
    if (index >= restore->keys.size()) return No("an output is out of range");

    RestorePlan::Variable variable;
    if (const AttrValue* a = FindAttr(*handle.node, "container")) {
      variable.container = a->s();
    }
    if (const AttrValue* a = FindAttr(*handle.node, "shared_name")) {
      variable.name = a->s();
    }
    const AttrValue* declared = FindAttr(*handle.node, "dtype");
    variable.dtype = dtype->type();
    variable.key = restore->keys[index];
    if (variable.name.empty() ||
        variable.name == ResourceHandle::ANONYMOUS_NAME) {
      return No("a variable has no name");
    }
    if (declared == nullptr || declared->type() != variable.dtype ||
        restore->dtypes[index] != variable.dtype) {
      return No("the types of " + variable.name + " differ");
    }
    if (!DataTypeCanUseMemcpy(variable.dtype) && variable.dtype != DT_STRING) {
      return No(variable.name + " is a " + DataTypeString(variable.dtype));
    }
    if (!assigned_.insert({variable.container, variable.name}).second) {
      return No(variable.name + " is assigned twice");
    }
    plan_->variables.push_back(std::move(variable));
    return true;
  }

  // The tensors that RestoreV2 node `source` reads; nullptr if that is no plan.
  const Restore* FindRestore(const Source& source) {
    const auto known = restores_.find(source.node);
    if (known != restores_.end()) return &known->second;
    const NodeDef& node = *source.node;
    Source prefix;
    Restore restore;
    std::vector<std::string> slices;
    if (!OnCpu(node) || node.input_size() < 3 ||
        !Follow(source.scope, AsView(node.input(0)), &prefix) ||
        !Strings(source.scope, AsView(node.input(1)), &restore.keys) ||
        !Strings(source.scope, AsView(node.input(2)), &slices)) {
      No("an odd restore op");
      return nullptr;
    }
    if (prefix.feed < 0 ||
        (plan_->prefix_feed >= 0 && prefix.feed != plan_->prefix_feed)) {
      No("a restore op's prefix is not the one that is fed");
      return nullptr;
    }
    plan_->prefix_feed = prefix.feed;
    if (const AttrValue* dtypes = FindAttr(node, "dtypes")) {
      for (const int dtype : dtypes->list().type()) {
        restore.dtypes.push_back(static_cast<DataType>(dtype));
      }
    }
    if (slices.size() != restore.keys.size() ||
        restore.dtypes.size() != restore.keys.size()) {
      No("a restore op's inputs differ in length");
      return nullptr;
    }
    for (const std::string& slice : slices) {
      if (!slice.empty()) {
        No("a slice of a variable is restored");
        return nullptr;
      }
    }
    return &restores_.emplace(source.node, std::move(restore)).first->second;
  }

  bool Strings(const Scope* scope, View input, std::vector<std::string>* out) {
    Source source;
    if (!Follow(scope, input, &source)) return false;
    if (source.node == nullptr || source.node->op() != "Const") return false;
    const AttrValue* value = FindAttr(*source.node, "value");
    Tensor tensor;
    if (value == nullptr || !tensor.FromProto(value->tensor()) ||
        tensor.dtype() != DT_STRING) {
      return false;
    }
    const auto flat = tensor.flat<tstring>();
    for (int64_t i = 0; i < flat.size(); ++i) out->emplace_back(flat(i));
    return true;
  }

  // The end of a data edge, past identities and into callers.
  bool Follow(const Scope* scope, View input, Source* source) {
    // Those of functions may go round in circles.
    for (int edges = 0; edges < kMostEdges; ++edges) {
      View name = input.substr(0, input.find(':'));
      const size_t last = input.rfind(':');
      int output = 0;
      if (last != View::npos) {
        output = std::atoi(std::string(input.substr(last + 1)).c_str());
      }
      const auto argument = scope->arguments.find(name);
      if (argument != scope->arguments.end()) {
        if (argument->second >= scope->call->input_size()) {
          return No("a call lacks an argument");
        }
        input = AsView(scope->call->input(argument->second));
        scope = scope->caller;
        continue;
      }
      if (scope->caller == nullptr && output == 0) {
        const auto feed = feeds_.find(name);
        if (feed != feeds_.end()) {
          source->feed = feed->second;
          return true;
        }
      }
      const auto node = scope->nodes.find(name);
      if (node == scope->nodes.end()) return No("an edge leads nowhere");
      if (node->second->op() == "Identity" && node->second->input_size() > 0) {
        input = AsView(node->second->input(0));
        continue;
      }
      source->scope = scope;
      source->node = node->second;
      source->output = output;
      return true;
    }
    return No("identities go round in circles");
  }

  static bool OnCpu(const NodeDef& node) {
    if (node.device().empty()) return true;
    DeviceNameUtils::ParsedName parsed;
    return DeviceNameUtils::ParseFullName(node.device(), &parsed) &&
           (!parsed.has_type || parsed.type == "CPU") &&
           (!parsed.has_id || parsed.id == 0);
  }

  const GraphDef& graph_;
  const CallableOptions& options_;
  RestorePlan* const plan_;
  std::string why_;
  std::unordered_map<View, int> feeds_;
  std::deque<Scope> scopes_;  // stays where it is when it grows
  std::set<std::pair<const Scope*, const NodeDef*>> visited_;
  std::unordered_map<const NodeDef*, Restore> restores_;
  std::set<std::pair<std::string, std::string>> assigned_;
};

}  // namespace

std::string RestorePlan::Make(const GraphDef& graph,
                              const CallableOptions& options,
                              RestorePlan* plan) {
  RestorePlan made;
  Reader reader(graph, options, &made);
  if (!reader.Read()) return reader.why();
  *plan = std::move(made);
  return "";
}

}  // namespace tensorflow
