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

// The same of integers: sum >= threshold.
inline unsigned ReachMask(const int32_t* sums, const int32_t* thresholds) {
  const __m256i below =
      _mm256_cmpgt_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(thresholds)),
                         _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums)));
  return ~static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(below))) & 255u;
}

// differing[0][a][i] = popcount(i ^ low half of a), differing[1][a][i] the same of its high half.
struct HalfByteTables {
  uint8_t differing[2][256][16] = {};
  constexpr HalfByteTables() {
    for (int a = 0; a < 256; ++a) {
      for (int i = 0; i < 16; ++i) {
        for (int bit = 0; bit < 4; ++bit) {
          differing[0][a][i] += (i ^ a) >> bit & 1;
          differing[1][a][i] += (i ^ a >> 4) >> bit & 1;
        }
      }
    }
  }
};
alignas(16) constexpr HalfByteTables kHalfByteTables;

// A byte of the input, as two tables that the halves of the weights look up.
struct BytePattern {
  __m256i low, high;
  explicit BytePattern(uint8_t a) : low(Table(0, a)), high(Table(1, a)) {}
  static __m256i Table(int half, uint8_t a) {
    return _mm256_broadcastsi128_si256(
        _mm_load_si128(reinterpret_cast<const __m128i*>(kHalfByteTables.differing[half][a])));
  }
};

// The bytes of 32 channels.
struct ChannelBytes {
  __m256i low, high;
  explicit ChannelBytes(const uint8_t* p) {
    const __m256i half = _mm256_set1_epi8(15);
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    low = _mm256_and_si256(w, half);
    high = _mm256_and_si256(_mm256_srli_epi16(w, 4), half);
  }
};

// 32 counts of 8 bits; those of as many rows as the registers hold are kept at a time.
constexpr int kCountRows = 3;
struct ByteCounts {
  __m256i total = _mm256_setzero_si256();
  void Add(const BytePattern& a, const ChannelBytes& w) {
    total = _mm256_add_epi8(total, _mm256_shuffle_epi8(a.low, w.low));
    total = _mm256_add_epi8(total, _mm256_shuffle_epi8(a.high, w.high));
  }
  void AddTo(uint16_t* totals) const {
    const __m128i halves[] = {_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1)};
    for (int i = 0; i < 2; ++i) {
      __m256i* sum = reinterpret_cast<__m256i*>(totals + 16 * i);
      _mm256_storeu_si256(
          sum, _mm256_add_epi16(_mm256_loadu_si256(sum), _mm256_cvtepu8_epi16(halves[i])));
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

inline unsigned ReachMask(const int32_t* sums, const int32_t* thresholds) {
  const uint32x4_t bits = {1, 2, 4, 8};
  const uint32x4_t lo = vcgeq_s32(vld1q_s32(sums), vld1q_s32(thresholds));
  const uint32x4_t hi = vcgeq_s32(vld1q_s32(sums + 4), vld1q_s32(thresholds + 4));
  return vaddvq_u32(vandq_u32(lo, bits)) | vaddvq_u32(vandq_u32(hi, bits)) << 4;
}

// A byte of the input; the bytes of 32 channels; 32 counts of 8 bits: eor, cnt, add.
constexpr int kCountRows = 4;
struct BytePattern {
  uint8x16_t v;
  explicit BytePattern(uint8_t a) : v(vdupq_n_u8(a)) {}
};
struct ChannelBytes {
  uint8x16_t v[2];
  explicit ChannelBytes(const uint8_t* p) : v{vld1q_u8(p), vld1q_u8(p + 16)} {}
};
struct ByteCounts {
  uint8x16_t total[2] = {vdupq_n_u8(0), vdupq_n_u8(0)};
  void Add(const BytePattern& a, const ChannelBytes& w) {
    for (int i = 0; i < 2; ++i) total[i] = vaddq_u8(total[i], vcntq_u8(veorq_u8(a.v, w.v[i])));
  }
  void AddTo(uint16_t* totals) const {
    for (int i = 0; i < 2; ++i, totals += 16) {
      vst1q_u16(totals, vaddw_u8(vld1q_u16(totals), vget_low_u8(total[i])));
      vst1q_u16(totals + 8, vaddw_u8(vld1q_u16(totals + 8), vget_high_u8(total[i])));
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

inline unsigned ReachMask(const int32_t* sums, const int32_t* thresholds) {
  unsigned mask = 0;
  for (int i = 0; i < 8; ++i) mask |= (sums[i] >= thresholds[i] ? 1u : 0u) << i;
  return mask;
}

constexpr int kCountRows = 1;
struct BytePattern {
  uint8_t v;
  explicit BytePattern(uint8_t a) : v(a) {}
};
struct ChannelBytes {
  const uint8_t* v;
  explicit ChannelBytes(const uint8_t* p) : v(p) {}
};
struct ByteCounts {
  uint8_t total[32] = {};
  void Add(const BytePattern& a, const ChannelBytes& w) {
    for (int l = 0; l < 32; ++l) {  // bits in pairs, in fours, in eights: compilers vectorize it
      uint8_t bits = a.v ^ w.v[l];
      bits = static_cast<uint8_t>(bits - (bits >> 1 & 0x55));
      bits = static_cast<uint8_t>((bits & 0x33) + (bits >> 2 & 0x33));
      total[l] = static_cast<uint8_t>(total[l] + ((bits + (bits >> 4)) & 15));
    }
  }
  void AddTo(uint16_t* totals) const {
    for (int l = 0; l < 32; ++l) totals[l] = static_cast<uint16_t>(totals[l] + total[l]);
  }
};

#endif
