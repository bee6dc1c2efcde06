#include "tflite/profile.h"

#include <cstdio>
#include <functional>

namespace kerasq {
namespace {

struct Profiles {
  std::mutex mutex;
  std::map<std::string, std::weak_ptr<Profile>, std::less<>> by_name;
};

// Never destroyed: an interpreter may outlive the library's static objects.
Profiles& AllProfiles() {
  static Profiles* const profiles = new Profiles;
  return *profiles;
}

std::shared_ptr<Profile> FindProfile(const char* name) {
  Profiles& all = AllProfiles();
  std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.by_name.find(name);
  return found == all.by_name.end() ? nullptr : found->second.lock();
}

}  // namespace

void OperatorCounter::Prepared(const char* kernel, size_t scratch_bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::snprintf(profile_.kernel, sizeof(profile_.kernel), "%s",
                kernel == nullptr ? "none" : kernel);
  profile_.scratch_bytes = scratch_bytes;
}

void OperatorCounter::Ran(uint64_t nanoseconds) {
  std::lock_guard<std::mutex> lock(mutex_);
  ++profile_.runs;
  profile_.nanoseconds += nanoseconds;
}

KerasqOperatorProfile OperatorCounter::Read() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return profile_;
}

void Profile::SeeGraph(const TfLiteContext* context) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (first_graph_ == nullptr) first_graph_ = context;
}

std::shared_ptr<OperatorCounter> Profile::Counter(const TfLiteContext* context, int node) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (context != first_graph_) return nullptr;
  std::shared_ptr<OperatorCounter>& counter = counters_[node];
  if (counter == nullptr) counter = std::make_shared<OperatorCounter>(node);
  return counter;
}

int Profile::Read(KerasqOperatorProfile* operators, int capacity) const {
  std::lock_guard<std::mutex> lock(mutex_);
  int count = 0;
  for (const auto& entry : counters_) {
    if (count < capacity) operators[count] = entry.second->Read();
    ++count;
  }
  return count;
}

std::shared_ptr<Profile> NewProfile(const std::string& name) {
  Profiles& all = AllProfiles();
  std::lock_guard<std::mutex> lock(all.mutex);
  for (auto entry = all.by_name.begin(); entry != all.by_name.end();) {
    entry = entry->second.expired() ? all.by_name.erase(entry) : std::next(entry);
  }
  std::weak_ptr<Profile>& known = all.by_name[name];
  if (!known.expired()) return nullptr;
  auto made = std::make_shared<Profile>();
  known = made;
  return made;
}

}  // namespace kerasq

int KerasqProfile_Read(const char* name, KerasqOperatorProfile* operators, int capacity) {
  const std::shared_ptr<kerasq::Profile> profile = kerasq::FindProfile(name);
  return profile == nullptr ? -1 : profile->Read(operators, capacity);
}
