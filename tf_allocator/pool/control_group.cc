// SPDX-License-Identifier: Apache-2.0

#include "tf_allocator/pool/control_group.h"

#include <fstream>
#include <sstream>

namespace tf_model_pool {
namespace {

bool ListHas(const std::string& list, const std::string& item) {
  return ("," + list + ",").find("," + item + ",") != std::string::npos;
}

struct Mount {
  std::string root;   // of the hierarchy, as seen from outside
  std::string point;  // the directory that shows it
};

// The mount of the hierarchy; `controller` is "" for v2. An empty point if
// there is none.
Mount FindMount(const std::string& mountinfo, const std::string& controller) {
  std::istringstream lines(mountinfo);
  for (std::string line; std::getline(lines, line);) {
    // id parent device root point options [tags] - type source options
    const size_t separator = line.find(" - ");
    if (separator == std::string::npos) continue;
    std::istringstream first(line.substr(0, separator));
    std::istringstream second(line.substr(separator + 3));
    std::string skipped, type, options;
    Mount mount;
    first >> skipped >> skipped >> skipped >> mount.root >> mount.point;
    second >> type >> skipped >> options;
    const bool wanted = controller.empty()
                            ? type == "cgroup2"
                            : type == "cgroup" && ListHas(options, controller);
    if (wanted) return mount;
  }
  return {};
}

}  // namespace

ControlGroup ParseControlGroup(const std::string& proc_cgroup,
                               const std::string& mountinfo,
                               const std::string& controller) {
  std::string path_v1, path_v2;
  std::istringstream lines(proc_cgroup);
  for (std::string line; std::getline(lines, line);) {
    // id:controllers:path
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string list = line.substr(first + 1, second - first - 1);
    if (ListHas(list, controller)) path_v1 = line.substr(second + 1);
    if (list.empty()) path_v2 = line.substr(second + 1);
  }
  ControlGroup group;
  Mount mount;
  std::string path;
  if (!path_v1.empty()) {
    group.version = 1;
    mount = FindMount(mountinfo, controller);
    path = path_v1;
  } else if (!path_v2.empty()) {
    group.version = 2;
    mount = FindMount(mountinfo, "");
    path = path_v2;
  }
  if (mount.point.empty()) return {};
  // Inside a container the mount's root may be the group itself, or another one
  // ("/web", and the group "/web2").
  const std::string root = mount.root == "/" ? "" : mount.root;
  const bool inside = path.compare(0, root.size() + 1, root + "/") == 0;
  path = inside ? path.substr(root.size()) : "";
  while (!path.empty() && path.back() == '/') path.pop_back();
  for (;;) {
    group.directories.push_back(mount.point + path);
    if (path.empty()) return group;
    path.erase(path.rfind('/'));
  }
}

ControlGroup FindControlGroup(const std::string& controller) {
  return ParseControlGroup(ReadText("/proc/self/cgroup"),
                           ReadText("/proc/self/mountinfo"), controller);
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace tf_model_pool
