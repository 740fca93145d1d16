// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/model_identity.h"

#include <utility>
#include <vector>

namespace tf_model_pool {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

bool IsVersion(const std::string& text) {
  const size_t start = !text.empty() && text[0] == 'v' ? 1 : 0;
  return text.size() > start && IsDigit(text[start]);
}

// A path as its root ("", "/", "gs://") and its parts.
struct SplitPath {
  std::string root;
  std::vector<std::string> parts;

  explicit SplitPath(const std::string& path) {
    size_t pos = 0;
    const size_t scheme = path.find("://");
    if (scheme != std::string::npos) {
      pos = scheme + 3;
    } else if (!path.empty() && path[0] == '/') {
      pos = 1;
    }
    root = path.substr(0, pos);
    while (pos <= path.size()) {
      size_t end = path.find('/', pos);
      if (end == std::string::npos) end = path.size();
      std::string part = path.substr(pos, end - pos);
      if (!part.empty() && part != ".") parts.push_back(std::move(part));
      pos = end + 1;
    }
  }

  // The first `count` parts as a path; "." for none of a relative path.
  std::string Head(size_t count) const {
    if (count == 0 && root.empty()) return ".";
    std::string head = root;
    for (size_t i = 0; i < count; ++i) {
      if (i > 0) head += '/';
      head += parts[i];
    }
    return head;
  }
};

}  // namespace

std::string ModelIdentity::Name() const {
  const SplitPath path(model_dir);
  if (path.parts.empty()) return version.empty() ? model_dir : version;
  const std::string& base = path.parts.back();
  return version.empty() ? base : base + "/" + version;
}

ModelIdentity IdentityFromCheckpointPrefix(const std::string& prefix) {
  const SplitPath path(prefix);
  const size_t n = path.parts.size();
  if (n == 0) return {prefix, ""};
  if (n >= 2 && path.parts[n - 1] == "variables" &&
      path.parts[n - 2] == "variables") {
    if (n >= 3 && IsVersion(path.parts[n - 3])) {
      return {path.Head(n - 3), path.parts[n - 3]};
    }
    return {path.Head(n - 2), ""};
  }
  return {path.Head(n - 1), path.parts[n - 1]};
}

}  // namespace tf_model_pool
