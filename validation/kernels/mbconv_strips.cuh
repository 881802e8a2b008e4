// What mbconv_rows.cu and mbconv_chain.cu share: a warp and its row of a vertical strip of 14 columns, with a column more on either side.
// q is a lane's place in its quad, lx its first pixel of 16 (it has lx and lx + 1); a lane reads and writes 16 contiguous bytes of a pixel.
#pragma once
#include "mbconv.cuh"

constexpr int VALID = 14;                                                            // columns of a strip

struct Row {                                                                         // of the sequence of all strips' rows
  int y, left;                                                                       // row of the image, first column (with halo)
  int pixel;                                                                         // index of the pixel (row, left)
  // to `rows` rows further down: without divisions
  __device__ __forceinline__ void advance(int rows, int H, int W) {
    y += rows;
    pixel += rows * W;
    while (y >= H) {                                                                 // the next strip; the next image
      y -= H;
      left += VALID;
      pixel += VALID - H * W;
      if (left + 1 >= W) {
        pixel += H * W - (left + 1);
        left = -1;
      }
    }
  }
};
__device__ __forceinline__ Row locate(int s, Divisor by_strips, Divisor by_rows, int W) {
  const int H = by_rows.d, strips = by_strips.d, k = by_rows(s), n = by_strips(k);
  Row r;
  r.y = s - k * H;
  r.left = (k - n * strips) * VALID - 1;
  r.pixel = (n * H + r.y) * W + r.left;
  return r;
}

// x of a row into the registers of its lanes. Outside of the image some other pixel is read; arrange_row replaces it by zero.
template <int C> __device__ __forceinline__ void load_row(uint4 (&raw)[C / 16], const unsigned char* x, const Row& r, bool ok, int W, int lx, int q) {
  const bool in0 = ok && (unsigned)(r.left + lx) < (unsigned)W, in1 = ok && (unsigned)(r.left + lx + 1) < (unsigned)W;
  const unsigned char* p0 = (in0 ? x + (long)(r.pixel + lx) * (C * 2) : x) + q * 16;
  const unsigned char* p1 = (in1 ? x + (long)(r.pixel + lx + 1) * (C * 2) : x) + q * 16;
#pragma unroll
  for (int m = 0; m < C / 32; ++m) {
    raw[2 * m] = ldg128(p0 + m * 64);
    raw[2 * m + 1] = ldg128(p1 + m * 64);
  }
}
template <int C> __device__ __forceinline__ void prefetch_row(const unsigned char* x, const Row& r, bool ok, int W, int lx, int q) {
  const int c = r.left + lx + (q & 1);
  if (ok && (unsigned)c < (unsigned)W)
    for (int m = q >> 1; m * 128 < C * 2; m += 2) prefetch_l2(x + (long)(r.pixel + lx + (q & 1)) * (C * 2) + m * 128);
}
struct Inside {                                                                      // ~0 for a pixel of the image: of this lane's two
  uint32_t first, second;
  __device__ __forceinline__ Inside(const Row& r, bool ok, int W, int lx) {
    first = ok && (unsigned)(r.left + lx) < (unsigned)W ? ~0u : 0;
    second = ok && (unsigned)(r.left + lx + 1) < (unsigned)W ? ~0u : 0;
  }
  // A operand of the expansion's bias: a column of ones
  __device__ __forceinline__ void ones(uint32_t (&one)[4], int q) const {
    one[0] = q == 0 ? first & 0x3C00 : 0;
    one[1] = q == 0 ? second & 0x3C00 : 0;
  }
  // as loaded -> A operands
  template <int K> __device__ __forceinline__ void arrange(uint32_t (&a)[K][4], const uint4 (&raw)[K]) const {
#pragma unroll
    for (int m = 0; m < K / 2; ++m) {
      const uint4 u = raw[2 * m], v = raw[2 * m + 1];
      uint32_t (&lo)[4] = a[2 * m], (&hi)[4] = a[2 * m + 1];
      lo[0] = u.x & first; lo[1] = v.x & second; lo[2] = u.y & first; lo[3] = v.y & second;
      hi[0] = u.z & first; hi[1] = v.z & second; hi[2] = u.w & first; hi[3] = v.w & second;
    }
  }
};

// What is added to the sums of OUT times 32 of C channels, and where they go
template <int C, int OUT, int MOST = 0> struct Identity {
  static constexpr int AT_ONCE = MOST ? MOST : OUT == 3 ? 2 : OUT < 4 ? OUT : 4;                   // loads in flight, of 32 channels each
  long at;
  bool put0, put1;
  uint4 a[AT_ONCE], b[AT_ONCE];
  __device__ __forceinline__ void fetch(const unsigned char* x, int m0) {
#pragma unroll
    for (int m = 0; m < AT_ONCE && m0 + m < OUT; ++m) {
      a[m] = ldg128(x + (put0 ? at + (m0 + m) * 64 : 0));
      b[m] = ldg128(x + (put1 ? at + C * 2 + (m0 + m) * 64 : 0));
    }
  }
  // of row r, from channel 32 * `channels` on
  __device__ __forceinline__ void of(const unsigned char* x, const Row& r, bool put, int W, int lx, int q, int channels) {
    put0 = put && lx > 0 && r.left + lx < W;
    put1 = put && lx < VALID && r.left + lx + 1 < W;
    at = (long)(r.pixel + lx) * (C * 2) + q * 16 + channels * 64;
    fetch(x, 0);
  }
  // with bias (in shared memory, this lane's), what was fetched for m0
  __device__ __forceinline__ void put(unsigned char* y, const float (&o)[C / 2], int m0, uint32_t biases) const {
#pragma unroll
    for (int mm = 0; mm < AT_ONCE && m0 + mm < OUT; ++mm) {
      const int m = m0 + mm;
      const uint4 bias = lds128(biases + m * 64);
      uint4 u = a[mm], v = b[mm];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* sum = o + 4 * (4 * m + i);
        (&u.x)[i] = add2(add2(pack2(sum[0], sum[1]), (&bias.x)[i]), (&u.x)[i]);
        (&v.x)[i] = add2(add2(pack2(sum[2], sum[3]), (&bias.x)[i]), (&v.x)[i]);
      }
      if (put0) *reinterpret_cast<uint4*>(y + at + m * 64) = u;
      if (put1) *reinterpret_cast<uint4*>(y + at + C * 2 + m * 64) = v;
    }
  }
};
