// What the shared library offers, whatever else is hidden in it.
#ifndef KERASQ_TFLITE_EXPORT_H_
#define KERASQ_TFLITE_EXPORT_H_

#define KERASQ_EXPORT __attribute__((visibility("default")))

#endif  // KERASQ_TFLITE_EXPORT_H_
