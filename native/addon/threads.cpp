#include "addon/threads.h"

#include <ATen/Parallel.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

namespace stepward::addon {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

int affinity_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return kMaxThreads;  // more than 1024 CPUs
  return CPU_COUNT(&set);
}

// CPUs granted by `<quota> <period>` (cgroup 2, cpu.max) or by the two files of cgroup 1; infinity without a limit.
double cgroup_cores(const std::string& folder) {
  std::string quota;
  double period = 0;
  if (std::ifstream v2(folder + "/cpu.max"); v2 >> quota >> period) {
    if (quota == "max" || period <= 0) return kNoLimit;
    return std::strtod(quota.c_str(), nullptr) / period;
  }
  double microseconds = 0;
  std::ifstream v1_quota(folder + "/cpu.cfs_quota_us"), v1_period(folder + "/cpu.cfs_period_us");
  if (v1_quota >> microseconds && v1_period >> period && microseconds > 0 && period > 0) return microseconds / period;
  return kNoLimit;
}

// The tightest quota of this process's cgroup and of all above it.
double quota_cores() {
  double cores = std::min(cgroup_cores("/sys/fs/cgroup"), cgroup_cores("/sys/fs/cgroup/cpu"));
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // hierarchy:controllers:path
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool v2 = controllers.empty(), v1 = controllers.find("cpu") != std::string::npos;
    if (!v2 && !v1) continue;
    const std::string mount = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    for (std::string path = line.substr(second + 1); path.size() > 1; path.resize(path.find_last_of('/'))) {
      cores = std::min(cores, cgroup_cores(mount + path));
    }
  }
  return cores;
}

std::atomic<int>& wanted() {
  static std::atomic<int> count{default_threads()};
  return count;
}

}  // namespace

int default_threads() {
  if (const char* text = std::getenv("OMP_NUM_THREADS")) {
    const int count = std::atoi(text);
    if (count >= 1) return std::min(count, kMaxThreads);
  }
  const double quota = std::max(1.0, std::floor(quota_cores()));
  return std::clamp(static_cast<int>(std::min<double>(affinity_cores(), quota)), 1, kMaxThreads);
}

int threads() {
  return wanted().load();
}

void set_threads(int count) {
  wanted().store(count);
}

void apply_threads() {
  if (at::get_num_threads() != threads()) at::set_num_threads(threads());
}

}  // namespace stepward::addon
