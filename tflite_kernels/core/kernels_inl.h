// The microkernels, written once over the vectors of simd.h.
// Included by one file per instruction set, inside its own unnamed namespace.

constexpr int kBlocksPerWiden = 15;  // the least that any BitCounter's bytes hold

void PackSigns(const float* x, const float* direction, const float* thresholds, int n,
               uint64_t* words) {
  int c = 0;
  for (; c + 64 <= n; c += 64) {
    uint64_t word = 0;
    for (int i = 0; i < 64; i += 8) {
      const uint64_t mask = ReachMask(x + c + i, direction + c + i, thresholds + c + i);
      word |= mask << i;
    }
    *words++ = word;
  }
  if (c == n) return;
  uint64_t word = 0;
  for (int i = 0; c + i < n; ++i) {
    word |= static_cast<uint64_t>(x[c + i] * direction[c + i] >= thresholds[c + i]) << i;
  }
  *words = word;
}

// for every 4 channels:  for every 256-bit block:  count(a ^ w) into bytes, widened now and then
void XorPopcount(const uint64_t* a, const uint64_t* w, int64_t words, int channels,
                 int32_t* differing) {
  int c = 0;
  for (; c + 4 <= channels; c += 4, w += 4 * words) {
    BitCounter counters[4];
    for (int64_t i = 0; i < words;) {
      const int64_t left = words - i;
      const int64_t end = i + (left < 4 * kBlocksPerWiden ? left : 4 * kBlocksPerWiden);
      for (; i < end; i += 4) {
        for (int k = 0; k < 4; ++k) counters[k].Add(a + i, w + k * words + i);
      }
      for (BitCounter& counter : counters) counter.Widen();
    }
    for (int k = 0; k < 4; ++k) differing[c + k] = counters[k].Total();
  }
  for (; c < channels; ++c, w += words) {
    BitCounter counter;
    for (int64_t i = 0; i < words; i += 4) {
      counter.Add(a + i, w + i);
      counter.Widen();
    }
    differing[c] = counter.Total();
  }
}

// sums[6][16] += pixels[6][depth] x panel[depth][16], tap after tap
void Gemm6x16(const float* const* pixels, const float* panel, int taps, int depth, float* sums) {
  Floats acc[kGemmRows][2];
  for (int p = 0; p < kGemmRows; ++p) {
    acc[p][0] = Load(sums + p * kPanelChannels);
    acc[p][1] = Load(sums + p * kPanelChannels + 8);
  }
  for (int t = 0; t < taps; ++t, pixels += kGemmRows) {
    const float* const row[kGemmRows] = {pixels[0], pixels[1], pixels[2],
                                         pixels[3], pixels[4], pixels[5]};
    for (int i = 0; i < depth; ++i, panel += kPanelChannels) {
      const Floats w0 = Load(panel), w1 = Load(panel + 8);
      for (int p = 0; p < kGemmRows; ++p) {
        const Floats x = Fill(row[p][i]);
        acc[p][0] = MulAdd(x, w0, acc[p][0]);
        acc[p][1] = MulAdd(x, w1, acc[p][1]);
      }
    }
  }
  for (int p = 0; p < kGemmRows; ++p) {
    Store(sums + p * kPanelChannels, acc[p][0]);
    Store(sums + p * kPanelChannels + 8, acc[p][1]);
  }
}

void DecodePlanesX16(const uint16_t* masks, int64_t mask_stride, int planes, const float* scales,
                     const float* offset, int n, float* panel) {
  for (int i = 0; i < n; ++i, panel += kPanelChannels) {
    float value[kPanelChannels];
    for (int l = 0; l < kPanelChannels; ++l) value[l] = offset[l];
    for (int p = 0; p < planes; ++p) {
      const uint32_t mask = ~static_cast<uint32_t>(masks[p * mask_stride + i]);
      for (int l = 0; l < kPanelChannels; ++l) {
        uint32_t bits;
        memcpy(&bits, scales + p * kPanelChannels + l, sizeof(bits));
        bits ^= (mask >> l & 1u) << 31;  // a clear bit turns the scale's sign
        float signed_scale;
        memcpy(&signed_scale, &bits, sizeof(bits));
        value[l] += signed_scale;
      }
    }
    memcpy(panel, value, sizeof(value));
  }
}

// for every 4 codewords, 16 pixels:  acc = sum_j codeword[j] * row[j]
void BuildTable(const float* codewords, int size, int length, const float* rows, int64_t stride,
                int64_t pixels, float* table) {
  for (int64_t i = 0; i < pixels; i += 8) {
    int k = 0;
    for (; k + 4 <= size; k += 4) {
      Floats acc[4] = {Fill(0), Fill(0), Fill(0), Fill(0)};
      for (int j = 0; j < length; ++j) {
        const Floats x = Load(rows + j * stride + i);
        for (int q = 0; q < 4; ++q) {
          acc[q] = MulAdd(Fill(codewords[(k + q) * length + j]), x, acc[q]);
        }
      }
      for (int q = 0; q < 4; ++q) Store(table + (k + q) * stride + i, acc[q]);
    }
    for (; k < size; ++k) {
      Floats acc = Fill(0);
      for (int j = 0; j < length; ++j) {
        acc = MulAdd(Fill(codewords[k * length + j]), Load(rows + j * stride + i), acc);
      }
      Store(table + k * stride + i, acc);
    }
  }
}

// for every channel:  64 sums stay in registers while every tap adds its row of the table
void LookUpX64(const float* const* taps, int num_taps, int64_t stride, const uint8_t* indices,
               int channels, float* sums, int64_t sums_stride) {
  for (int c = 0; c < channels; ++c, sums += sums_stride, indices += num_taps) {
    Floats acc[8];
    for (int v = 0; v < 8; ++v) acc[v] = Load(sums + 8 * v);
    for (int t = 0; t < num_taps; ++t) {
      const float* row = taps[t] + indices[t] * stride;
      for (int v = 0; v < 8; ++v) acc[v] = Add(acc[v], Load(row + 8 * v));
    }
    for (int v = 0; v < 8; ++v) Store(sums + 8 * v, acc[v]);
  }
}

constexpr Kernels kKernels = {KERASQ_ISA_NAME, PackSigns,  XorPopcount, Gemm6x16,
                              DecodePlanesX16, BuildTable, LookUpX64};
