// One thread pool for all operators of an interpreter.
#ifndef KERASQ_TFLITE_THREAD_POOLS_H_
#define KERASQ_TFLITE_THREAD_POOLS_H_

#include <memory>

#include "core/thread_pool.h"
#include "tflite/tflite_c_api.h"

namespace kerasq {

// The pool of the context's recommended number of threads: shared by its operators, and gone with
// the last of them.
std::shared_ptr<ThreadPool> SharedThreadPool(const TfLiteContext* context);

}  // namespace kerasq

#endif  // KERASQ_TFLITE_THREAD_POOLS_H_
