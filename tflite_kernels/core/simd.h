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

// A table of 16 floats, and the elements that 8 indices below 16 select from it.
struct Table16 {
  __m256 low, high;
  explicit Table16(const float* p) : low(_mm256_loadu_ps(p)), high(_mm256_loadu_ps(p + 8)) {}
  Floats Select(const uint8_t* indices) const {
    const __m256i i =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(indices)));
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(i, 28));  // bit 3 to the sign
    return {_mm256_blendv_ps(_mm256_permutevar8x32_ps(low, i), _mm256_permutevar8x32_ps(high, i),
                             upper)};
  }
};

// One bit a lane: direction * x >= threshold; false for NaN.
inline unsigned ReachMask(const float* x, const float* direction, const float* threshold) {
  const __m256 directed = _mm256_mul_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(direction));
  return static_cast<unsigned>(
      _mm256_movemask_ps(_mm256_cmp_ps(directed, _mm256_loadu_ps(threshold), _CMP_GE_OQ)));
}

// Counts, for 8 channels, the bits in which a word differs from theirs. A byte's count is the sum
// of two table look-ups, one a nibble.
struct BitCounts {
  __m256i bytes[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  __m256i total[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  void Add(const uint64_t* a, const uint64_t* w) {
    const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1,
                                            2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i word = _mm256_set1_epi64x(static_cast<long long>(*a));
    for (int v = 0; v < 2; ++v) {
      const __m256i bits =
          _mm256_xor_si256(word, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 4 * v)));
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bits, 4), low);
      const __m256i count =
          _mm256_add_epi8(_mm256_shuffle_epi8(counts, _mm256_and_si256(bits, low)),
                          _mm256_shuffle_epi8(counts, high));
      bytes[v] = _mm256_add_epi8(bytes[v], count);
    }
  }
  void Widen() {
    for (int v = 0; v < 2; ++v) {
      total[v] = _mm256_add_epi64(total[v], _mm256_sad_epu8(bytes[v], _mm256_setzero_si256()));
      bytes[v] = _mm256_setzero_si256();
    }
  }
  void Store(int32_t* differing) const {
    const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 0, 0, 0);
    for (int v = 0; v < 2; ++v) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(differing + 4 * v),
                       _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(total[v], even)));
    }
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

struct Table16 {
  uint8x16x4_t bytes;
  explicit Table16(const float* p) {
    for (int i = 0; i < 4; ++i) bytes.val[i] = vreinterpretq_u8_f32(vld1q_f32(p + 4 * i));
  }
  // Index i stands for the bytes 4 i .. 4 i + 3.
  float32x4_t Four(uint32x4_t i) const {
    const uint32x4_t spread = vmlaq_n_u32(vdupq_n_u32(0x03020100), i, 0x04040404);
    return vreinterpretq_f32_u8(vqtbl4q_u8(bytes, vreinterpretq_u8_u32(spread)));
  }
  Floats Select(const uint8_t* indices) const {
    const uint16x8_t i = vmovl_u8(vld1_u8(indices));
    return {Four(vmovl_u16(vget_low_u16(i))), Four(vmovl_u16(vget_high_u16(i)))};
  }
};

inline unsigned ReachMask(const float* x, const float* direction, const float* threshold) {
  const uint32x4_t bits = {1, 2, 4, 8};
  const uint32x4_t lo =
      vcgeq_f32(vmulq_f32(vld1q_f32(x), vld1q_f32(direction)), vld1q_f32(threshold));
  const uint32x4_t hi =
      vcgeq_f32(vmulq_f32(vld1q_f32(x + 4), vld1q_f32(direction + 4)), vld1q_f32(threshold + 4));
  return vaddvq_u32(vandq_u32(lo, bits)) | vaddvq_u32(vandq_u32(hi, bits)) << 4;
}

// Counts, for 8 channels, the bits in which a word differs from theirs: eor, cnt, widened by
// uadalp.
struct BitCounts {
  uint8x16_t bytes[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)};
  uint64x2_t total[4] = {vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0)};
  void Add(const uint64_t* a, const uint64_t* w) {
    const uint64x2_t word = vld1q_dup_u64(a);
    for (int v = 0; v < 4; ++v) {
      const uint8x16_t bits = vreinterpretq_u8_u64(veorq_u64(word, vld1q_u64(w + 2 * v)));
      bytes[v] = vaddq_u8(bytes[v], vcntq_u8(bits));
    }
  }
  void Widen() {
    for (int v = 0; v < 4; ++v) {
      total[v] = vpadalq_u32(total[v], vpaddlq_u16(vpaddlq_u8(bytes[v])));
      bytes[v] = vdupq_n_u8(0);
    }
  }
  void Store(int32_t* differing) const {
    for (int v = 0; v < 4; ++v) {
      vst1_s32(differing + 2 * v, vreinterpret_s32_u32(vmovn_u64(total[v])));
    }
  }
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

struct Table16 {
  const float* table;
  explicit Table16(const float* p) : table(p) {}
  Floats Select(const uint8_t* indices) const {
    Floats a;
    for (int i = 0; i < 8; ++i) a.v[i] = table[indices[i]];
    return a;
  }
};

inline unsigned ReachMask(const float* x, const float* direction, const float* threshold) {
  unsigned mask = 0;
  for (int i = 0; i < 8; ++i) mask |= (x[i] * direction[i] >= threshold[i] ? 1u : 0u) << i;
  return mask;
}

struct BitCounts {
  int32_t total[8] = {};
  void Add(const uint64_t* a, const uint64_t* w) {
    for (int l = 0; l < 8; ++l) total[l] += __builtin_popcountll(*a ^ w[l]);
  }
  void Widen() {}
  void Store(int32_t* differing) const {
    for (int l = 0; l < 8; ++l) differing[l] = total[l];
  }
};

#endif
