/* An app in plain C, built against what `cmake --install` has written. */
#include <stdio.h>

#include "kerasq/tflite_operators.h"

int main(void) {
  struct TfLiteRegistration* const registrations[] = {
      KerasqRegister_BITPLANE_CONV_2D(), KerasqRegister_BITPLANE_DENSE(),
      KerasqRegister_CODEBOOK_CONV_2D(), KerasqRegister_CODEBOOK_DENSE(),
      KerasqRegister_SPARSE_CONV_2D(),   KerasqRegister_SPARSE_DENSE(),
      KerasqRegister_HASHED_DENSE()};
  const int count = sizeof(registrations) / sizeof(registrations[0]);
  int made = 0;
  for (int i = 0; i < count; ++i) made += registrations[i] != NULL;
  printf("kerasq %s: %d operators\n", KerasqVersion(), made);
  return made == count ? 0 : 1;
}
