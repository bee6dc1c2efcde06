// The operators for apps that link the runtime themselves: pass each to
// MutableOpResolver::AddCustom under its name.
#ifndef KERASQ_TFLITE_REGISTER_H_
#define KERASQ_TFLITE_REGISTER_H_

#include "tflite/tflite_c_api.h"

#define KERASQ_EXPORT __attribute__((visibility("default")))

extern "C" {

KERASQ_EXPORT TfLiteRegistration* KerasqRegister_BITPLANE_CONV_2D();
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_BITPLANE_DENSE();
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_BITPACK();
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_BITPACK_MAX_POOL_2D();
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_CODEBOOK_CONV_2D();
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_CODEBOOK_DENSE();
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_SPARSE_CONV_2D();
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_SPARSE_DENSE();
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_HASHED_DENSE();

}  // extern "C"

#endif  // KERASQ_TFLITE_REGISTER_H_
