// A small pool: the caller works too, and idle threads sleep.
#ifndef KERASQ_CORE_THREAD_POOL_H_
#define KERASQ_CORE_THREAD_POOL_H_

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace kerasq {

class ThreadPool {
 public:
  // Throws where the system does not give the threads.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Call work(task, thread) for every task, thread below num_threads(); return when all are done.
  void ParallelFor(int tasks, const std::function<void(int task, int thread)>& work);

 private:
  void Stop();
  void Loop(int thread);
  void Drain(int thread);

  std::vector<std::thread> workers_;
  std::mutex call_mutex_;  // one ParallelFor at a time
  std::mutex mutex_;
  std::condition_variable start_, done_;
  const std::function<void(int, int)>* work_ = nullptr;
  int tasks_ = 0, next_ = 0, running_ = 0;
  long round_ = 0;
  bool stop_ = false;
};

}  // namespace kerasq

#endif  // KERASQ_CORE_THREAD_POOL_H_
