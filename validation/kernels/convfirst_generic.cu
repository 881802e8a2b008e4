// Fused ConvFirst residual block for any channels that are a multiple of 8, any image, fp16 or bf16, sm_80 and later.
//
//   a = grouped_conv3x3(x, w1) + b1            C -> C, groups of 8 channels, zero padding, no activation
//   h = silu(a @ We + be)                      C -> eC
//   y = h @ Wp + bp + x                        eC -> C
//
// A block owns a tile of TILE_ROWS x TILE_COLUMNS output pixels, M of them counted with the idle ones, and at most
// eight times WARPS / WARPS_M times BLOCKS_PER_WARP output channels (blockIdx.y: wider outputs repeat the expansion).
//   1. conv: for each slab of 64 channels, tile and halo by cp.async (zero-filled outside of the image), then mma.sync with
//      k16 = two taps x 8 channels and k8 for the ninth tap; the result goes to shared memory as the A operand, M x C.
//   2. for each chunk of 64 hidden channels: S = A . We; P = silu(S + be) to shared memory (two buffers, one barrier per
//      chunk); O += P . Wp, with O in registers, columns shared among warps.
//   3. epilogue: + bias + residual, which is read again from global memory (the tile just read it: it is in the L2 cache).
// Weights are packed by the host in the order of mma B fragments (packing.py), so that a warp loads one with a coalesced
// 256-byte read; they come from the L2 cache for every tile, which is what limits this kernel at wide channels.
// b1 is folded into be. C and eC are padded with zero weights to multiples of 16 and 64.
//
// Constants: KERNEL_NAME, BF16, CHANNELS, EXPANSION, TILE_ROWS, TILE_COLUMNS, M, WARPS_M, BLOCKS_PER_WARP (blocks of eight
// output channels), BLOCKS_PER_MULTIPROCESSOR (of threads, for the compiler's registers), SHARED_BYTES.
#include "specialisation.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
using uint32_t = unsigned int;

#if BF16
using Element = __nv_bfloat16;
using Element2 = __nv_bfloat162;
#define TYPE_NAME "bf16"
__device__ __forceinline__ Element2 round2(float lo, float hi) { return __floats2bfloat162_rn(lo, hi); }
__device__ __forceinline__ float2 widen2(Element2 v) { return __bfloat1622float2(v); }
#else
using Element = __half;
using Element2 = __half2;
#define TYPE_NAME "f16"
__device__ __forceinline__ Element2 round2(float lo, float hi) { return __floats2half2_rn(lo, hi); }
__device__ __forceinline__ float2 widen2(Element2 v) { return __half22float2(v); }
#endif

__device__ __forceinline__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void cp_async16(uint32_t to, const void* from, bool inside) {  // zero-fills where not inside
  int n = inside ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(n) : "memory");
}
__device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
__device__ __forceinline__ void ldsm4(uint32_t (&r)[4], uint32_t a) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}
__device__ __forceinline__ void ldsm2(uint32_t& r0, uint32_t& r1, uint32_t a) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r0), "=r"(r1) : "r"(a) : "memory");
}
// D (16x8, fp32) += A (16x16) . B (16x8), and the form with 8 for the inner 16
__device__ __forceinline__ void mma16(float (&d)[4], const uint32_t (&a)[4], uint2 b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE_NAME "." TYPE_NAME ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}
__device__ __forceinline__ void mma8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32." TYPE_NAME "." TYPE_NAME ".f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(b));
}
__device__ __forceinline__ float silu(float v) {  // v * sigmoid(v) = u + u * tanh(u), u = v / 2
  float u = 0.5f * v, t;
  asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(u));
  return fmaf(u, t, u);
}

namespace generic {
constexpr int C = CHANNELS, G = C / 8, HID = EXPANSION * C;
constexpr int KA = (C + 15) / 16, HC = 64, NCH = (HID + HC - 1) / HC;  // k16 steps of the expansion; hidden chunks
constexpr int WARPS = 8, WM = WARPS_M, WN = WARPS / WM, MI = M / 16 / WM;  // warps along pixels, along columns; m16 per warp
constexpr int NE = HC / 8 / WN, NO = BLOCKS_PER_WARP, NOB = NO * WN;  // n8 blocks per warp: expansion, projection
constexpr int COLUMNS = (G + NOB - 1) / NOB;                          // gridDim.y
constexpr int SLAB = 64, SG = SLAB / 8, HR = TILE_ROWS + 2, HW = TILE_COLUMNS + 2;
constexpr int PITCH_X = SLAB * 2 + 16, PITCH_A = KA * 32 + 16, PITCH_P = HC * 2 + 16;  // odd multiples of 16: no bank conflicts
constexpr int X_BYTES = HR * HW * PITCH_X, A_BYTES = M * PITCH_A, P_BYTES = M * PITCH_P;
constexpr int OFF_A = 0, OFF_X = A_BYTES;  // the two buffers of P take the place of the halo tile once the conv is done
constexpr int SMEM = A_BYTES + (X_BYTES > 2 * P_BYTES ? X_BYTES : 2 * P_BYTES);
static_assert(TILE_ROWS * TILE_COLUMNS <= M && M % (16 * WM) == 0 && HC % (8 * WN) == 0, "tile");
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
}  // namespace generic

extern "C" __global__ void __launch_bounds__(256, BLOCKS_PER_MULTIPROCESSOR)
KERNEL_NAME(const Element* __restrict__ x, Element* __restrict__ y, const uint32_t* __restrict__ conv_w,
            const uint2* __restrict__ expand_w, const uint2* __restrict__ project_w, const float* __restrict__ expand_b,
            const float* __restrict__ project_b, int N, int H, int W) {
  using namespace generic;
  extern __shared__ __align__(16) unsigned char smem[];
  const uint32_t sm = shared_address(smem);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, q = lane & 3;
  const int TX = (W + TILE_COLUMNS - 1) / TILE_COLUMNS, TY = (H + TILE_ROWS - 1) / TILE_ROWS;
  const int tx = blockIdx.x % TX, ty = blockIdx.x / TX % TY, n = blockIdx.x / TX / TY;
  const int y0 = ty * TILE_ROWS, x0 = tx * TILE_COLUMNS;
  const Element* image = x + (size_t)n * H * W * C;

  // ---- grouped 3x3 conv
  if (C % 16) {  // the padding of the last k16
    for (int m = tid; m < M; m += 256) *reinterpret_cast<uint4*>(smem + OFF_A + m * PITCH_A + C * 2) = make_uint4(0, 0, 0, 0);
  }
  for (int g0 = 0; g0 < G; g0 += SG) {
    const int groups = G - g0 < SG ? G - g0 : SG;
    for (int i = tid; i < HR * HW * SG; i += 256) {
      const int g = i % SG, p = i / SG, yy = y0 + p / HW - 1, xx = x0 + p % HW - 1;
      const bool inside = g < groups && (unsigned)yy < (unsigned)H && (unsigned)xx < (unsigned)W;
      const Element* from = inside ? image + ((size_t)yy * W + xx) * C + (g0 + g) * 8 : x;
      cp_async16(sm + OFF_X + p * PITCH_X + g * 16, from, inside);
    }
    cp_async_wait();
    __syncthreads();
    for (int i = warp; i < M / 16 * groups; i += WARPS) {
      const int g = i % groups, mt = i / groups, m = mt * 16 + (lane & 15), second = lane >> 4;
      const int pixel = m < TILE_ROWS * TILE_COLUMNS ? m : 0;  // idle rows repeat the first pixel; their result is not stored
      const uint32_t at = sm + OFF_X + (pixel / TILE_COLUMNS * HW + pixel % TILE_COLUMNS) * PITCH_X + g * 16;
      const uint32_t* w = conv_w + (g0 + g) * 9 * 32;
      float d[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const int tap = 2 * pair + second;
        uint32_t a[4];
        ldsm4(a, at + (tap / 3 * HW + tap % 3) * PITCH_X);
        mma16(d, a, *reinterpret_cast<const uint2*>(w + pair * 64 + lane * 2));
      }
      uint32_t a0, a1;
      ldsm2(a0, a1, at + (2 * HW + 2) * PITCH_X);
      mma8(d, a0, a1, w[256 + lane]);
      unsigned char* to = smem + OFF_A + (mt * 16 + (lane >> 2)) * PITCH_A + (g0 + g) * 16 + q * 4;
      *reinterpret_cast<Element2*>(to) = round2(d[0], d[1]);
      *reinterpret_cast<Element2*>(to + 8 * PITCH_A) = round2(d[2], d[3]);
    }
    __syncthreads();
  }

  // ---- inverted bottleneck
  const int wm = warp / WN, wn = warp % WN, row = (wm * MI * 16) + (lane & 15);
  const uint32_t a_at = sm + OFF_A + row * PITCH_A + (lane >> 4) * 16;
  float o[MI][NO][4];
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int b = 0; b < NO; ++b)
#pragma unroll
      for (int v = 0; v < 4; ++v) o[i][b][v] = 0.f;

#pragma unroll 1
  for (int j = 0; j < NCH; ++j) {
    unsigned char* p_buffer = smem + OFF_X + (j & 1) * P_BYTES;
    float s[MI][NE][4];
#pragma unroll
    for (int b = 0; b < NE; ++b) {
      const float2 bias = __ldg(reinterpret_cast<const float2*>(expand_b + j * HC + (wn * NE + b) * 8 + q * 2));
#pragma unroll
      for (int i = 0; i < MI; ++i) s[i][b][0] = s[i][b][2] = bias.x, s[i][b][1] = s[i][b][3] = bias.y;
    }
    const uint2* we = expand_w + ((size_t)j * KA * (HC / 8) + wn * NE) * 32 + lane;
#pragma unroll 4
    for (int k = 0; k < KA; ++k) {
      uint32_t a[MI][4];
#pragma unroll
      for (int i = 0; i < MI; ++i) ldsm4(a[i], a_at + i * 16 * PITCH_A + k * 32);
#pragma unroll
      for (int b = 0; b < NE; ++b) {
        const uint2 w = __ldg(we + (k * (HC / 8) + b) * 32);
#pragma unroll
        for (int i = 0; i < MI; ++i) mma16(s[i][b], a[i], w);
      }
    }
#pragma unroll
    for (int i = 0; i < MI; ++i)
#pragma unroll
      for (int b = 0; b < NE; ++b) {
        unsigned char* to = p_buffer + ((wm * MI + i) * 16 + (lane >> 2)) * PITCH_P + (wn * NE + b) * 16 + q * 4;
        *reinterpret_cast<Element2*>(to) = round2(silu(s[i][b][0]), silu(s[i][b][1]));
        *reinterpret_cast<Element2*>(to + 8 * PITCH_P) = round2(silu(s[i][b][2]), silu(s[i][b][3]));
      }
    __syncthreads();  // P(j) is complete; and every warp is past P(j-1), so that P(j+1) may take its buffer after the next one
    const uint32_t p_at = shared_address(p_buffer) + row * PITCH_P + (lane >> 4) * 16;
    const uint2* wp = project_w + ((size_t)j * (HC / 16) * COLUMNS * NOB + blockIdx.y * NOB + wn * NO) * 32 + lane;
#pragma unroll
    for (int k = 0; k < HC / 16; ++k) {
      uint32_t p[MI][4];
#pragma unroll
      for (int i = 0; i < MI; ++i) ldsm4(p[i], p_at + i * 16 * PITCH_P + k * 32);
#pragma unroll
      for (int b = 0; b < NO; ++b) {
        const uint2 w = __ldg(wp + (k * COLUMNS * NOB + b) * 32);
#pragma unroll
        for (int i = 0; i < MI; ++i) mma16(o[i][b], p[i], w);
      }
    }
  }

  // ---- epilogue: O + bias through shared memory, where A was (every warp is past its last read of it: the barrier above),
  // so that the residual is read and the output written 16 bytes at a time
#pragma unroll
  for (int b = 0; b < NO; ++b) {
    const int c = (blockIdx.y * NOB + wn * NO + b) * 8 + q * 2;
    if (c >= C) continue;
    const float2 bias = __ldg(reinterpret_cast<const float2*>(project_b + c));
#pragma unroll
    for (int i = 0; i < MI; ++i) {
      unsigned char* to = smem + OFF_A + ((wm * MI + i) * 16 + (lane >> 2)) * PITCH_A + c * 2;
      *reinterpret_cast<Element2*>(to) = round2(o[i][b][0] + bias.x, o[i][b][1] + bias.y);
      *reinterpret_cast<Element2*>(to + 8 * PITCH_A) = round2(o[i][b][2] + bias.x, o[i][b][3] + bias.y);
    }
  }
  __syncthreads();
  const int first = blockIdx.y * NOB, groups = G - first < NOB ? G - first : NOB;
  for (int i = tid; i < TILE_ROWS * TILE_COLUMNS * groups; i += 256) {
    const int g = first + i % groups, m = i / groups, yy = y0 + m / TILE_COLUMNS, xx = x0 + m % TILE_COLUMNS;
    if (yy >= H || xx >= W) continue;
    const size_t at = (((size_t)n * H + yy) * W + xx) * C + g * 8;
    uint4 branch = *reinterpret_cast<const uint4*>(smem + OFF_A + m * PITCH_A + g * 16);
    const uint4 rest = __ldg(reinterpret_cast<const uint4*>(x + at));
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      const float2 l = widen2(reinterpret_cast<const Element2*>(&branch)[v]), r = widen2(reinterpret_cast<const Element2*>(&rest)[v]);
      reinterpret_cast<Element2*>(&branch)[v] = round2(l.x + r.x, l.y + r.y);
    }
    *reinterpret_cast<uint4*>(y + at) = branch;
  }
}
