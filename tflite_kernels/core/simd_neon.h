// The vectors of simd.h in NEON.

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

struct Pair {
  int16x4_t v;
  void Load(const int16_t* pair) {
    v = vreinterpret_s16_s32(vld1_dup_s32(reinterpret_cast<const int32_t*>(pair)));
  }
};

struct PairSums {
  int32x4_t lo, hi;
  void Set(const int16_t* vectors, const Pair& pair) {
    const int16x8x2_t v = vld2q_s16(vectors);
    lo = vmull_lane_s16(vget_low_s16(v.val[0]), pair.v, 0);
    hi = vmull_high_lane_s16(v.val[0], pair.v, 0);
    lo = vmlal_lane_s16(lo, vget_low_s16(v.val[1]), pair.v, 1);
    hi = vmlal_high_lane_s16(hi, v.val[1], pair.v, 1);
  }
  void Add(const int16_t* vectors, const Pair& pair) {
    const int16x8x2_t v = vld2q_s16(vectors);
    lo = vmlal_lane_s16(lo, vget_low_s16(v.val[0]), pair.v, 0);
    hi = vmlal_high_lane_s16(hi, v.val[0], pair.v, 0);
    lo = vmlal_lane_s16(lo, vget_low_s16(v.val[1]), pair.v, 1);
    hi = vmlal_high_lane_s16(hi, v.val[1], pair.v, 1);
  }
};

struct Rounder {
  int32x4_t shift;
  int16_t multiplier;
  explicit Rounder(const EntryRounding& rounding)
      : shift(vdupq_n_s32(-rounding.shift)),
        multiplier(static_cast<int16_t>(rounding.multiplier)) {}
  int16x8_t Scaled(const PairSums& sums) const {
    const int16x4_t lo = vqmovn_s32(vrshlq_s32(sums.lo, shift));
    return vqrdmulhq_n_s16(vqmovn_high_s32(lo, vrshlq_s32(sums.hi, shift)), multiplier);
  }
  void Store(const PairSums& low, const PairSums& high, int8_t* entries) const {
    vst1q_s8(entries, vqmovn_high_s16(vqmovn_s16(Scaled(low)), Scaled(high)));
  }
};

inline void QuantizeEight(const float* x, float inverse_scale, float low, float high,
                          int16_t* codes) {
  int32x4_t code[2];
  for (int i = 0; i < 2; ++i) {
    const float32x4_t scaled = vmulq_n_f32(vld1q_f32(x + 4 * i), inverse_scale);
    // minnm gives the number where the other is NaN
    const float32x4_t kept = vmaxq_f32(vminnmq_f32(scaled, vdupq_n_f32(high)), vdupq_n_f32(low));
    code[i] = vcvtnq_s32_f32(kept);
  }
  vst1q_s16(codes, vcombine_s16(vmovn_s32(code[0]), vmovn_s32(code[1])));
}

// Indices of the two sub-spaces side by side, those of the second into the second half of a table
// of 32: register i is of channels 8 i .. 8 i + 7.
struct Nibbles {
  uint8x16_t index[4];
  explicit Nibbles(const uint8_t* p) {
    for (int half = 0; half < 2; ++half) {
      const uint8x16_t bytes = vld1q_u8(p + 16 * half);
      const uint8x16_t even = vandq_u8(bytes, vdupq_n_u8(15));
      const uint8x16_t odd = vsriq_n_u8(vdupq_n_u8(16), bytes, 4);
      index[2 * half] = vzip1q_u8(even, odd);
      index[2 * half + 1] = vzip2q_u8(even, odd);
    }
  }
};

// tbl, then sadalp adds the entries of both sub-spaces.
struct NibbleSums {
  int16x8_t v[4] = {vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0)};
  void Add(const int8_t* tables, const Nibbles& index) {
    const int8x16x2_t both = {{vld1q_s8(tables), vld1q_s8(tables + 16)}};
    for (int i = 0; i < 4; ++i) v[i] = vpadalq_s8(v[i], vqtbl2q_s8(both, index.index[i]));
  }
  void AddTo(int32_t* sums) const {
    for (int i = 0; i < 4; ++i, sums += 8) {
      vst1q_s32(sums, vaddw_s16(vld1q_s32(sums), vget_low_s16(v[i])));
      vst1q_s32(sums + 4, vaddw_high_s16(vld1q_s32(sums + 4), v[i]));
    }
  }
};

struct ByteSums {
  int16x8_t lo, hi;
  void Load(const int16_t* sums) {
    lo = vld1q_s16(sums);
    hi = vld1q_s16(sums + 8);
  }
  void Add(const int8_t* entries) {
    const int8x16_t e = vld1q_s8(entries);
    lo = vaddw_s8(lo, vget_low_s8(e));
    hi = vaddw_high_s8(hi, e);
  }
  void Store(int16_t* sums) const {
    vst1q_s16(sums, lo);
    vst1q_s16(sums + 8, hi);
  }
};
