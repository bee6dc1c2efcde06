// Memory that runs out: an allocation of this thread that throws.
#ifndef KERASQ_TESTS_FAILING_NEW_H_
#define KERASQ_TESTS_FAILING_NEW_H_

namespace kerasq {

// This thread's allocations with `new` until one fails; negative: none will. It is -1 after the one
// that failed.
int& AllocationsLeft();

// What the runtime or the test allocates in between neither counts nor fails.
class WithMemory {
 public:
  WithMemory() : left_(AllocationsLeft()) { AllocationsLeft() = -1; }
  ~WithMemory() { AllocationsLeft() = left_; }
  WithMemory(const WithMemory&) = delete;
  WithMemory& operator=(const WithMemory&) = delete;

 private:
  const int left_;
};

// Whether the allocation number `count` of `action` failed. What it throws leaves this function.
template <typename Action>
bool RunsOutOfMemory(int count, const Action& action) {
  AllocationsLeft() = count;
  action();
  const bool failed = AllocationsLeft() < 0;
  AllocationsLeft() = -1;
  return failed;
}

}  // namespace kerasq

#endif  // KERASQ_TESTS_FAILING_NEW_H_
