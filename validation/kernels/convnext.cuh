// What the ConvNeXt kernels for Hopper share: the matrix instruction of the depthwise convolution, gelu, the layer norm.
#pragma once
#include "hopper.cuh"

// d = A.B + start (first), or + d
__device__ __forceinline__ void mma16816_from(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool first, float start) {
  if (first)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(start));
  else
    mma16816(d, a, b0, b1);
}
// The row of a patch that is row g of the matrix instruction: two rows that are read together are two apart, as halo tiles of
// 14 pixels of 64 bytes then meet no bank twice
__device__ __forceinline__ int row_of(int g) { return (g & 4) | (g & 1) << 1 | (g >> 1 & 1); }
// A halo tile of 14x14 pixels and 32 channels, rows of 64 bytes with the 64-byte swizzle: its bytes, and its place's. The filters of 32
// channels: for each pair of them and each row, the places of a band, a weight of both.
constexpr int HALO = 14 * 14 * 64, HALO_PLACE = 12800, FILTER_BAND = 13 * 8;
constexpr int FILTERS = 16 * 7 * FILTER_BAND, FILTERS_PLACE = (FILTERS + 511) / 512 * 512;
// Where this lane's pixel and eight of its channels lie, by input row modulo four: the swizzle turns with it
__device__ __forceinline__ void halo_rows(uint32_t (&from)[4], uint32_t tile, int pixel, int octet, int pair = 0) {
#pragma unroll
  for (int i = 0; i < 4; ++i) from[i] = tile + pixel * 64 + ((octet ^ ((pixel >> 1) + 7 * i)) & 3) * 16 + pair * 4;
}
// The two parts of the band that are a lane's operand, of one row of a pair's filter; where they begin in a pair's table
__device__ __forceinline__ uint32_t near_of(int q, int g) { return (max(q - g, -5) + 5) * 8; }
__device__ __forceinline__ uint32_t far_of(int q, int g) { return (min(q - g + 8, 7) + 5) * 8; }
__device__ __forceinline__ void band(uint32_t (&b)[4], uint32_t near, uint32_t far, int row) {
  lds64(b[0], b[2], near + row * FILTER_BAND);
  lds64(b[1], b[3], far + row * FILTER_BAND);
}
__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }
// With u half the preactivation, gelu = u + u*tanh(u*(A + B*u^2)), A and B fitted to the exact form (by erf): off by at most 2.8e-4,
// before roundings. Weights and biases of the expansion are scaled so that the accumulators hold s = cbrt(B)*u instead, whose cube has
// the factor 1, and the projection's weights undo it: z = s*(s^2 + A/cbrt(B)), and s + s*tanh(z) is cbrt(B)*gelu.
__device__ __forceinline__ uint32_t gelu2(float s0, float s1, uint32_t bias) {
  const __half2 s = __hadd2(round2(s0, s1), pair_of(bias));
  const __half2 z = __hmul2(s, __hfma2(s, s, __float2half2_rn(2.45317373f)));
  return bits_of(__hfma2(s, pair_of(tanh2(bits_of(z))), s));
}
// what a lane has of 64 x 16 sums -> A operand; b0, b1: biases of its columns in the two blocks of eight, or where they lie
__device__ __forceinline__ void gelu_block(uint32_t (&p)[4], const float* s, uint32_t b0, uint32_t b1) {
  p[0] = gelu2(s[0], s[1], b0);
  p[1] = gelu2(s[2], s[3], b0);
  p[2] = gelu2(s[4], s[5], b1);
  p[3] = gelu2(s[6], s[7], b1);
}
__device__ __forceinline__ void gelu_block(uint32_t (&p)[4], const float* s, uint32_t bias) {
  uint32_t b0, b1;
  lds64(b0, b1, bias);
  gelu_block(p, s, b0, b1);
}
// A operand of a patch: each row (pixel) to mean 0 and variance 1 over its 16*KB channels, which four lanes hold. The matrix unit
// adds them up, exact products in fp32: A times ones, and the diagonal of A times its transpose (rows 0-7, 8-15). What the variance
// loses by the difference of two sums is less than the rounding of A's halves cost already.
template <int KB> __device__ __forceinline__ void normalise_by_matrix(uint32_t (&a)[KB][4], int lane) {
  constexpr float share = 1.f / (16 * KB);
  constexpr uint32_t one = 0x3c003c00;
  float sum[4], low[4], high[4];
#pragma unroll
  for (int k = 0; k < KB; ++k) {
    mma16816_from(sum, a[k], one, one, k == 0, 0.f);
    mma16816_from(low, a[k], a[k][0], a[k][2], k == 0, 0.f);
    mma16816_from(high, a[k], a[k][1], a[k][3], k == 0, 0.f);
  }
  const bool odd = lane >> 2 & 1;
  const float squares[2] = {__shfl_sync(~0u, odd ? low[1] : low[0], lane >> 3, 4), __shfl_sync(~0u, odd ? high[3] : high[2], lane >> 3, 4)};
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const float mean = sum[2 * row] * share, r = rsqrtf(fmaxf(fmaf(squares[row], share, -mean * mean), 0.f) + 1e-6f), shift = -mean * r;
#pragma unroll
    for (int k = 0; k < KB; ++k)
#pragma unroll
      for (int i = row; i < 4; i += 2) {
        const float2 v = unpack2(a[k][i]);
        a[k][i] = pack2(fmaf(v.x, r, shift), fmaf(v.y, r, shift));
      }
  }
}
// A operand of a patch: each row (pixel) to mean 0 and variance 1 over its 16*KB channels, which four lanes hold
template <int KB> __device__ __forceinline__ void normalise(uint32_t (&a)[KB][4]) {
  constexpr int C = 16 * KB;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float sum = 0.f, squares = 0.f;
#pragma unroll
    for (int k = 0; k < KB; ++k)
#pragma unroll
      for (int i = row; i < 4; i += 2) {
        const float2 v = unpack2(a[k][i]);
        sum += v.x + v.y;
      }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float mean = sum * (1.f / C);
#pragma unroll
    for (int k = 0; k < KB; ++k)
#pragma unroll
      for (int i = row; i < 4; i += 2) {
        const float2 v = unpack2(a[k][i]);
        squares = fmaf(v.x - mean, v.x - mean, squares);
        squares = fmaf(v.y - mean, v.y - mean, squares);
      }
    squares += __shfl_xor_sync(~0u, squares, 1);
    squares += __shfl_xor_sync(~0u, squares, 2);
    const float r = rsqrtf(squares * (1.f / C) + 1e-6f), shift = -mean * r;
#pragma unroll
    for (int k = 0; k < KB; ++k)
#pragma unroll
      for (int i = row; i < 4; i += 2) {
        const float2 v = unpack2(a[k][i]);
        a[k][i] = pack2(fmaf(v.x, r, shift), fmaf(v.y, r, shift));
      }
  }
}
// The same in place, for patches that registers do not hold: `row` is the lane's address for ldmatrix, 32 bytes for 16 channels
template <int KB> __device__ __forceinline__ void normalise_in_place(uint32_t row) {
  constexpr float share = 1.f / (16 * KB);
  float mean[2] = {}, r[2] = {};
  auto all = [&](float (&v)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      v[i] += __shfl_xor_sync(~0u, v[i], 1);
      v[i] += __shfl_xor_sync(~0u, v[i], 2);
    }
  };
  uint32_t a[4];
#pragma unroll 4
  for (int k = 0; k < KB; ++k) {
    ldsm4(a, row + k * 32);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 v = unpack2(a[i]);
      mean[i & 1] += v.x + v.y;
    }
  }
  all(mean);
  mean[0] *= share;
  mean[1] *= share;
#pragma unroll 4
  for (int k = 0; k < KB; ++k) {
    ldsm4(a, row + k * 32);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 v = unpack2(a[i]);
      r[i & 1] = fmaf(v.x - mean[i & 1], v.x - mean[i & 1], r[i & 1]);
      r[i & 1] = fmaf(v.y - mean[i & 1], v.y - mean[i & 1], r[i & 1]);
    }
  }
  all(r);
#pragma unroll
  for (int i = 0; i < 2; ++i) r[i] = rsqrtf(r[i] * share + 1e-6f);
#pragma unroll 4
  for (int k = 0; k < KB; ++k) {
    ldsm4(a, row + k * 32);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 v = unpack2(a[i]);
      a[i] = pack2((v.x - mean[i & 1]) * r[i & 1], (v.y - mean[i & 1]) * r[i & 1]);
    }
    stsm4(row + k * 32, a[0], a[1], a[2], a[3]);
  }
}
__device__ __forceinline__ void sts32_if(bool yes, uint32_t a, uint32_t v) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %0, 0;\n@p st.shared.b32 [%1], %2; }" ::"r"((int)yes), "r"(a), "r"(v) : "memory");
}
