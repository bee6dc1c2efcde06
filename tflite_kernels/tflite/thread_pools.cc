#include "tflite/thread_pools.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

namespace kerasq {
namespace {

// Whatever the runtime recommends, more threads than this only cost memory.
constexpr int kMaxThreads = 64;

using Key = std::pair<const TfLiteContext*, int>;

struct Pools {
  std::mutex mutex;
  std::map<Key, std::weak_ptr<ThreadPool>> pools;
};

// Never destroyed: an interpreter may outlive the library's static objects.
Pools& AllPools() {
  static Pools* const pools = new Pools;
  return *pools;
}

}  // namespace

std::shared_ptr<ThreadPool> SharedThreadPool(const TfLiteContext* context) {
  // -1 leaves the choice to us: one thread, as the runtime's own operators do.
  const int threads = std::clamp(context->recommended_num_threads, 1, kMaxThreads);
  Pools& all = AllPools();
  std::lock_guard<std::mutex> lock(all.mutex);
  for (auto entry = all.pools.begin(); entry != all.pools.end();) {
    entry = entry->second.expired() ? all.pools.erase(entry) : std::next(entry);
  }
  std::weak_ptr<ThreadPool>& pool = all.pools[Key(context, threads)];
  std::shared_ptr<ThreadPool> shared = pool.lock();
  if (shared == nullptr) pool = shared = std::make_shared<ThreadPool>(threads);
  return shared;
}

}  // namespace kerasq
