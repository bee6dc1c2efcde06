#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <vector>

#include "core/thread_pool.h"
#include "tests/failing_new.h"

namespace kerasq {
namespace {

TEST(ThreadPool, EveryTaskRunsOnceOnAThreadOfThePool) {
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (int tasks : {0, 1, 2, 100}) {
      std::vector<std::atomic<int>> runs(tasks);
      for (auto& run : runs) run = 0;
      pool.ParallelFor(tasks, [&](int task, int thread) {
        ++runs[task];
        EXPECT_LT(thread, threads);
      });
      for (const auto& run : runs) EXPECT_EQ(run, 1);
    }
  }
}

TEST(ThreadPool, CallsFromSeveralThreadsTakeTurns) {
  ThreadPool pool(3);
  std::atomic<int> total{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] { pool.ParallelFor(50, [&](int, int) { ++total; }); });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(total, 200);
}

// A worker that is left behind waits for ever, or ends the program.
TEST(ThreadPool, EndsItsWorkersWhereOneMoreCannotBeHad) {
  int failures = 0;
  const auto make = [&] {
    try {
      ThreadPool pool(4);
    } catch (const std::bad_alloc&) {
      ++failures;
    }
  };
  int count = 0;
  while (RunsOutOfMemory(count, make)) ++count;
  EXPECT_EQ(failures, count);
  EXPECT_GT(count, 3);
}

}  // namespace
}  // namespace kerasq
