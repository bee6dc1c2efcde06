// What each operator of an interpreter ran and took, kept where its delegate was asked to.
#ifndef KERASQ_TFLITE_PROFILE_H_
#define KERASQ_TFLITE_PROFILE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "tflite/export.h"
#include "tflite/tflite_c_api.h"

extern "C" {

struct KerasqOperatorProfile {
  int32_t node;                // its index in the file's first graph
  char kernel[60];             // what runs, such as "codebook_look_up_avx2", ended by 0
  uint64_t scratch_bytes;      // of the runtime's memory, for the prepared shapes
  uint64_t runs, nanoseconds;  // since the delegate was made
};

// Copy the operators, by ascending node, at most `capacity` of them, of the interpreter whose
// delegate was made with the option profile=`name`. Return how many there are, -1 for no such name.
// Any thread may call it at any time.
KERASQ_EXPORT int KerasqProfile_Read(const char* name, KerasqOperatorProfile* operators,
                                     int capacity);

}  // extern "C"

namespace kerasq {

// One operator's part.
class OperatorCounter {
 public:
  explicit OperatorCounter(int node) { profile_.node = node; }

  // `kernel` is null where there is nothing to compute.
  void Prepared(const char* kernel, size_t scratch_bytes);
  void Ran(uint64_t nanoseconds);
  KerasqOperatorProfile Read() const;

 private:
  mutable std::mutex mutex_;
  KerasqOperatorProfile profile_ = {};
};

// Adds the time of its life to a counter; without one it does not even read the clock.
class OperatorTimer {
 public:
  explicit OperatorTimer(OperatorCounter* counter) : counter_(counter) {
    if (counter_ != nullptr) start_ = Clock::now();
  }
  ~OperatorTimer() {
    if (counter_ == nullptr) return;
    const auto time = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_);
    counter_->Ran(static_cast<uint64_t>(time.count()));
  }
  OperatorTimer(const OperatorTimer&) = delete;
  OperatorTimer& operator=(const OperatorTimer&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  OperatorCounter* const counter_;
  Clock::time_point start_;
};

// The counters of a delegate, by node.
class Profile {
 public:
  // Null but for the first context that asks: the runtime shows a delegate the file's first graph
  // first, and nodes of the others have the same numbers.
  std::shared_ptr<OperatorCounter> Counter(const TfLiteContext* context, int node);
  // The context of the first graph, told before its operators are made.
  void SeeGraph(const TfLiteContext* context);
  int Read(KerasqOperatorProfile* operators, int capacity) const;

 private:
  mutable std::mutex mutex_;
  const TfLiteContext* first_graph_ = nullptr;
  std::map<int, std::shared_ptr<OperatorCounter>> counters_;
};

// A new profile that KerasqProfile_Read finds by `name` while it lives; null if the name is taken.
std::shared_ptr<Profile> NewProfile(const std::string& name);

}  // namespace kerasq

#endif  // KERASQ_TFLITE_PROFILE_H_
