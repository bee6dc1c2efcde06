// Eight floats and 256 bits, whatever the instruction set: the kernels are written once in these.
// Included by one file per instruction set, inside its own unnamed namespace.

#if defined(KERASQ_SIMD_AVX2)

struct Floats {
  __m256 v;
};
inline Floats Load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void Store(float* p, Floats a) { _mm256_storeu_ps(p, a.v); }
inline Floats Fill(float x) { return {_mm256_set1_ps(x)}; }
inline Floats Add(Floats a, Floats b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Floats MulAdd(Floats a, Floats b, Floats c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

// One bit a lane: direction * x >= threshold; false for NaN.
inline unsigned ReachMask(const float* x, const float* direction, const float* threshold) {
  const __m256 directed = _mm256_mul_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(direction));
  return static_cast<unsigned>(_mm256_movemask_ps(
      _mm256_cmp_ps(directed, _mm256_loadu_ps(threshold), _CMP_GE_OQ)));
}

// Counts differing bits of 256-bit blocks. A byte gains at most 8 a block: 31 blocks fit into it.
struct BitCounter {
  __m256i bytes = _mm256_setzero_si256(), total = _mm256_setzero_si256();
  void Add(const uint64_t* a, const uint64_t* b) {
    const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1,
                                            2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i bits = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)),
                                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bits, 4), low);
    bytes = _mm256_add_epi8(bytes, _mm256_shuffle_epi8(counts, _mm256_and_si256(bits, low)));
    bytes = _mm256_add_epi8(bytes, _mm256_shuffle_epi8(counts, high));
  }
  void Widen() {
    total = _mm256_add_epi64(total, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
    bytes = _mm256_setzero_si256();
  }
  int32_t Total() const {
    const __m128i half =
        _mm_add_epi64(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
    return static_cast<int32_t>(_mm_cvtsi128_si64(half) + _mm_extract_epi64(half, 1));
  }
};

#elif defined(KERASQ_SIMD_NEON)

struct Floats {
  float32x4_t lo, hi;
};
inline Floats Load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline void Store(float* p, Floats a) {
  vst1q_f32(p, a.lo);
  vst1q_f32(p + 4, a.hi);
}
inline Floats Fill(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline Floats Add(Floats a, Floats b) { return {vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
inline Floats MulAdd(Floats a, Floats b, Floats c) {
  return {vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)};
}

inline unsigned ReachMask(const float* x, const float* direction, const float* threshold) {
  const uint32x4_t bits = {1, 2, 4, 8};
  const uint32x4_t lo =
      vcgeq_f32(vmulq_f32(vld1q_f32(x), vld1q_f32(direction)), vld1q_f32(threshold));
  const uint32x4_t hi =
      vcgeq_f32(vmulq_f32(vld1q_f32(x + 4), vld1q_f32(direction + 4)), vld1q_f32(threshold + 4));
  return vaddvq_u32(vandq_u32(lo, bits)) | vaddvq_u32(vandq_u32(hi, bits)) << 4;
}

// A byte gains at most 16 a block (two halves of up to 8): 15 blocks fit into it.
struct BitCounter {
  uint8x16_t bytes = vdupq_n_u8(0);
  uint32x4_t total = vdupq_n_u32(0);
  void Add(const uint64_t* a, const uint64_t* b) {
    const uint8x16_t lo = vreinterpretq_u8_u64(veorq_u64(vld1q_u64(a), vld1q_u64(b)));
    const uint8x16_t hi = vreinterpretq_u8_u64(veorq_u64(vld1q_u64(a + 2), vld1q_u64(b + 2)));
    bytes = vaddq_u8(bytes, vaddq_u8(vcntq_u8(lo), vcntq_u8(hi)));
  }
  void Widen() {
    total = vpadalq_u16(total, vpaddlq_u8(bytes));
    bytes = vdupq_n_u8(0);
  }
  int32_t Total() const { return static_cast<int32_t>(vaddvq_u32(total)); }
};

#else

struct Floats {
  float v[8];
};
inline Floats Load(const float* p) {
  Floats a;
  for (int i = 0; i < 8; ++i) a.v[i] = p[i];
  return a;
}
inline void Store(float* p, const Floats& a) {
  for (int i = 0; i < 8; ++i) p[i] = a.v[i];
}
inline Floats Fill(float x) {
  Floats a;
  for (float& v : a.v) v = x;
  return a;
}
inline Floats Add(Floats a, const Floats& b) {
  for (int i = 0; i < 8; ++i) a.v[i] += b.v[i];
  return a;
}
inline Floats MulAdd(const Floats& a, const Floats& b, Floats c) {
  for (int i = 0; i < 8; ++i) c.v[i] += a.v[i] * b.v[i];
  return c;
}

inline unsigned ReachMask(const float* x, const float* direction, const float* threshold) {
  unsigned mask = 0;
  for (int i = 0; i < 8; ++i) mask |= (x[i] * direction[i] >= threshold[i] ? 1u : 0u) << i;
  return mask;
}

struct BitCounter {
  int32_t total = 0;
  void Add(const uint64_t* a, const uint64_t* b) {
    for (int i = 0; i < 4; ++i) total += __builtin_popcountll(a[i] ^ b[i]);
  }
  void Widen() {}
  int32_t Total() const { return total; }
};

#endif
