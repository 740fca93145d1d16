// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/load/run_kinds.h"

#include <functional>
#include <map>

#include "absl/status/status.h"
#include "absl/strings/match.h"

namespace tensorflow {
namespace {

// No request feeds it: it has no place in SavedModels.
constexpr DataType kWrongType = DT_QINT16;

// kDefaultServingSignatureDefKey, which is in no header of a released wheel.
constexpr char kDefaultSignature[] = "serving_default";

constexpr uint64_t kFeed = 0x9e3779b97f4a7c15;
constexpr uint64_t kFetch = 0xc2b2ae3d27d4eb4f;
constexpr uint64_t kTarget = 0x165667b19e3779f9;

// A sum of these does not depend on the order.
uint64_t Mixed(uint64_t role, const std::string& name) {
  uint64_t x = std::hash<std::string>()(name) + role;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;  // splitmix64
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

const std::string& NameOf(const std::string& name) { return name; }
const std::string& NameOf(const std::pair<std::string, Tensor>& feed) {
  return feed.first;
}

template <typename Feeds>
uint64_t Hash(const Feeds& feeds, const std::vector<std::string>& fetches,
              const std::vector<std::string>& targets) {
  uint64_t hash = 0;
  for (const auto& feed : feeds) hash += Mixed(kFeed, NameOf(feed));
  for (const std::string& fetch : fetches) hash += Mixed(kFetch, fetch);
  for (const std::string& target : targets) hash += Mixed(kTarget, target);
  return hash == 0 ? 1 : hash;
}

bool Serves(const std::string& key, const SignatureDef& signature) {
  return !absl::StartsWith(key, "__saved_model_") &&
         !absl::StartsWith(signature.method_name(), "tensorflow/supervised/");
}

// Returns false if one of `infos` is not a dense tensor.
template <typename Infos>
bool AddNames(const Infos& infos, std::vector<std::string>* names) {
  for (const auto& [alias, info] : infos) {
    if (info.encoding_case() != TensorInfo::kName) return false;
    names->push_back(info.name());
  }
  return true;
}

}  // namespace

uint64_t HashOf(const RunKind& kind) {
  return Hash(kind.feeds, kind.fetches, kind.targets);
}

uint64_t HashOf(const std::vector<std::pair<std::string, Tensor>>& feeds,
                const std::vector<std::string>& fetches,
                const std::vector<std::string>& targets) {
  return Hash(feeds, fetches, targets);
}

std::vector<RunKind> ServedKinds(const MetaGraphDef& meta_graph) {
  const auto& signatures = meta_graph.signature_def();
  std::map<std::string, const SignatureDef*> sorted;
  for (const auto& [key, signature] : signatures) sorted[key] = &signature;
  std::vector<RunKind> kinds;
  const auto add = [&](const SignatureDef& signature) {
    RunKind kind;
    if (AddNames(signature.inputs(), &kind.feeds) &&
        AddNames(signature.outputs(), &kind.fetches) && !kind.feeds.empty() &&
        !kind.fetches.empty()) {
      kinds.push_back(std::move(kind));
    }
  };
  const auto first = sorted.find(kDefaultSignature);
  if (first != sorted.end()) {
    add(*first->second);
    sorted.erase(first);
  }
  for (const auto& [key, signature] : sorted) {
    if (Serves(key, *signature)) add(*signature);
  }
  return kinds;
}

bool PrepareRun(Session* session, const RunKind& kind) {
  if (kind.feeds.empty()) return false;
  std::vector<std::pair<std::string, Tensor>> feeds;
  for (const std::string& name : kind.feeds) {
    feeds.emplace_back(name, Tensor(kWrongType, TensorShape({0})));
  }
  std::vector<Tensor> outputs;
  const absl::Status status =
      session->Run(feeds, kind.fetches, kind.targets, &outputs);
  // In TensorFlow's words.
  return absl::IsInvalidArgument(status) &&
         absl::StartsWith(status.message(), "Expects arg[");
}

}  // namespace tensorflow
