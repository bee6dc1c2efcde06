/* The operators of kerasq for apps that link their own TFLite runtime, with kerasq_tflite_static.
 * Plain C.
 *
 * Register each under its name, before the interpreter is built. In C++, for one:
 *
 *   resolver.AddCustom("KerasqBitplaneConv2D", KerasqRegister_BITPLANE_CONV_2D());
 *
 * A registration is static: never freed, and the same on every call. */
#ifndef KERASQ_TFLITE_OPERATORS_H_
#define KERASQ_TFLITE_OPERATORS_H_

#ifdef __cplusplus
extern "C" {
#endif

struct TfLiteRegistration; /* of the runtime's tflite/core/c/common.h */

struct TfLiteRegistration* KerasqRegister_BITPLANE_CONV_2D(void);
struct TfLiteRegistration* KerasqRegister_BITPLANE_DENSE(void);
struct TfLiteRegistration* KerasqRegister_BITPACK(void);
struct TfLiteRegistration* KerasqRegister_BITPACK_MAX_POOL_2D(void);
struct TfLiteRegistration* KerasqRegister_CODEBOOK_CONV_2D(void);
struct TfLiteRegistration* KerasqRegister_CODEBOOK_DENSE(void);
struct TfLiteRegistration* KerasqRegister_SPARSE_CONV_2D(void);
struct TfLiteRegistration* KerasqRegister_SPARSE_DENSE(void);
struct TfLiteRegistration* KerasqRegister_HASHED_DENSE(void);

/* Of the library, such as "0.1.0". */
const char* KerasqVersion(void);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* KERASQ_TFLITE_OPERATORS_H_ */
