// What the phases of a fused kernel cost on Hopper (sm_90a), one at a time and as several warpgroups alternate between them. Each kernel
// reports the clocks of a turn and the nanoseconds, so that the clock that really ran is known, too.
#include "hopper.cuh"

// products alone as the kernels issue them have n from 8 to 256; silu needs 64 columns
template <int N> struct Product {
  static __device__ __forceinline__ void rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b) { Wgmma<N>::rs(d, a, b, 1); }
};

struct Stamp {
  long long clock, nanoseconds;
};
__device__ __forceinline__ Stamp stamp() {
  Stamp s;
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(s.clock)::"memory");
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(s.nanoseconds)::"memory");
  return s;
}
// block 0's first thread of the last warpgroup to end: largest interval over the warpgroups of a block
__device__ __forceinline__ void report(long long* out, Stamp begin, Stamp end) {
  if ((threadIdx.x & 127) == 0) {
    atomicMax(out + 2 * blockIdx.x, end.clock - begin.clock);
    atomicMax(out + 2 * blockIdx.x + 1, end.nanoseconds - begin.nanoseconds);
  }
}
__device__ __forceinline__ uint32_t noise(uint32_t i) {  // two halves between -1 and 1
  i = i * 2654435761u + 12345u;
  i ^= i >> 13;
  i *= 2246822519u;
  i ^= i >> 16;
  return (i & 0x83ff83ffu) | 0x38003800u;
}
__device__ __forceinline__ void fill(uint32_t sm, int bytes) {
  for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x) sts32(sm + 4 * i, noise(i + 977 * blockIdx.x));
  fence_async_proxy();
  __syncthreads();
}

// `turns` of: LINKS dependent products m64nNk16, A from registers, then wait for them
template <int N, int LINKS> __device__ void products(long long* out, float* sink, int turns) {
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = __shfl_sync(~0u, smem_u32(smem), 0);
  fill(sm, 65536);
  float d[N / 2];
  uint32_t a[4];
#pragma unroll
  for (int i = 0; i < N / 2; ++i) d[i] = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = noise(threadIdx.x * 4 + i);
  const uint64_t b = make_desc(sm, N / 8 * 128, 128);
  __syncthreads();
  const Stamp begin = stamp();
  for (int turn = 0; turn < turns; ++turn) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < LINKS; ++k) Product<N>::rs(d, a, b + (k % 4) * (N * 32 >> 4));
    wgmma_commit();
    wgmma_wait<0>();
  }
  report(out, begin, stamp());
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N / 2; ++i) sum += d[i];
  if (turns < 0) sink[threadIdx.x] = sum;
}

// `turns` of silu on 64 x 64 values of a warpgroup, bias from shared memory
__device__ void activations(long long* out, float* sink, int turns) {
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  fill(sm, 4096);
  float s[32];
  uint32_t p[4][4];
#pragma unroll
  for (int i = 0; i < 32; ++i) s[i] = 0.01f * (i + threadIdx.x % 7);
  __syncthreads();
  const Stamp begin = stamp();
  for (int turn = 0; turn < turns; ++turn) {
    silu_chunk<4>(s, p, sm);
#pragma unroll
    for (int i = 0; i < 16; ++i) s[i] = __uint_as_float((p[i / 4][i % 4] & 0x007fffffu) | 0x3e000000u), s[i + 16] = s[i];
  }
  report(out, begin, stamp());
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 32; ++i) sum += s[i];
  if (turns < 0) sink[threadIdx.x] = sum;
}

// the inverted bottleneck of C channels without its convolution: expand a chunk of N, silu, project while the next chunk is expanded
template <int C, int N, int CHUNKS> __device__ void bottleneck(long long* out, float* sink, int turns) {
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = __shfl_sync(~0u, smem_u32(smem), 0);
  fill(sm, 131072);
  uint32_t a[C / 16][4];
#pragma unroll
  for (int k = 0; k < C / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) a[k][i] = noise(threadIdx.x * 64 + 4 * k + i);
  const uint64_t de = make_desc(sm, N / 8 * 128, 128), dp = make_desc(sm + 32768, C / 8 * 128, 128);
  float kept = 0;
  __syncthreads();
  const Stamp begin = stamp();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    float o[C / 2], s[N / 2];
    uint32_t p[N / 16][4];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < C / 16; ++k) Wgmma<N>::rs(s, a[k], de + k * (N * 32 >> 4), k > 0);
    wgmma_commit();
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
      wgmma_wait<0>();
      silu_chunk<N / 16>(s, p, sm);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < N / 16; ++k) Wgmma<C>::rs(o, p[k], dp + k * (C * 32 >> 4), chunk + k > 0);
      if (chunk + 1 < CHUNKS) {
#pragma unroll
        for (int k = 0; k < C / 16; ++k) Wgmma<N>::rs(s, a[k], de + k * (N * 32 >> 4), k > 0);
      }
      wgmma_commit();
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < C / 2; ++i) kept = fmaxf(kept, o[i]);
  }
  report(out, begin, stamp());
  if (turns < 0) sink[threadIdx.x] = kept;
}

// mma.sync m16n8k16: CHAINS independent sums of a warp
template <int CHAINS> __device__ void small_products(long long* out, float* sink, int turns) {
  float d[CHAINS][4];
  uint32_t a[4], b[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = noise(threadIdx.x * 4 + i);
  b[0] = noise(threadIdx.x + 7);
  b[1] = noise(threadIdx.x + 11);
#pragma unroll
  for (int j = 0; j < CHAINS; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) d[j][i] = 0;
  __syncthreads();
  const Stamp begin = stamp();
  for (int turn = 0; turn < turns; ++turn)
#pragma unroll
    for (int u = 0; u < 8; ++u)
#pragma unroll
      for (int j = 0; j < CHAINS; ++j) mma16816(d[j], a, b[0], b[1]);
  report(out, begin, stamp());
  float sum = 0;
#pragma unroll
  for (int j = 0; j < CHAINS; ++j) sum += d[j][0] + d[j][3];
  if (turns < 0) sink[threadIdx.x] = sum;
}

// `turns` rows of a depthwise 3x3 convolution as mbconv_depthwise walks down them, 12 columns of two channels a thread, filters from shared
// memory, with silu before and after it or without: what a special function costs beside multiply-adds. A row's results are the next one's input
constexpr int OWN = 12;
typedef float Row[2][OWN];
typedef float Halo[2][OWN + 2];
__device__ __forceinline__ void row_of_filter(Row& to, const Row& from, const Halo& h, uint32_t filters) {
  float w[2][3];
#pragma unroll
  for (int k = 0; k < 3; ++k) asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(w[0][k]), "=f"(w[1][k]) : "r"(filters + k * 64));
#pragma unroll
  for (int j = 0; j < OWN; ++j)
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float v = from[c][j];
#pragma unroll
      for (int k = 0; k < 3; ++k) v = fmaf(h[c][j + k], w[c][k], v);
      to[c][j] = v;
    }
}
template <bool FUNCTIONS> __device__ void walks(long long* out, float* sink, int turns) {
  constexpr int PENDING = 2;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = __shfl_sync(~0u, smem_u32(smem), 0);
  for (int i = threadIdx.x; i < 4096; i += blockDim.x) sts32(sm + 4 * i, 0x3c000000u + i);
  const int lane = threadIdx.x & 31, q = lane & 3, group = threadIdx.x >> 7;
  const uint32_t table = sm + (lane >> 2) * 8 + group * 2048, to = sm + 16384 + group * 4096 + lane * 16;
  Row s, sums[PENDING];
  Halo h;
#pragma unroll
  for (int c = 0; c < 2; ++c)
#pragma unroll
    for (int j = 0; j < OWN; ++j) s[c][j] = 0.01f * (j + c + threadIdx.x % 7), sums[0][c][j] = sums[1][c][j] = 0.1f;
  __syncthreads();
  const Stamp begin = stamp();
#pragma unroll 1
  for (int turn = 0; turn < turns; turn += PENDING) {
#pragma unroll
    for (int oldest = 0; oldest < PENDING; ++oldest) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
#pragma unroll
        for (int j = 0; j < OWN; ++j) h[c][j + 1] = FUNCTIONS ? silu(s[c][j]) : s[c][j];
        const float before = __shfl_up_sync(~0u, h[c][OWN], 1, 4), after = __shfl_down_sync(~0u, h[c][1], 1, 4);
        h[c][0] = q > 0 ? before : 0.f;
        h[c][OWN + 1] = q < 3 ? after : 0.f;
      }
      row_of_filter(s, sums[oldest], h, table + 6 * 64);
#pragma unroll
      for (int j = 0; j < OWN && FUNCTIONS; ++j) s[0][j] = silu(s[0][j]), s[1][j] = silu(s[1][j]);
      row_of_filter(sums[1 - oldest], sums[1 - oldest], h, table + 3 * 64);
#pragma unroll
      for (int j = 0; j < OWN; j += 4) {
        const int l = j + 2 < OWN ? j + 2 : j;
        const uint32_t v[4] = {pack2(s[0][j], s[0][j + 1]), pack2(s[1][j], s[1][j + 1]), pack2(s[0][l], s[0][l + 1]), pack2(s[1][l], s[1][l + 1])};
        sts128(to + j * 128 % 2048, v);
      }
      Row start;
#pragma unroll
      for (int j = 0; j < OWN; ++j) start[0][j] = start[1][j] = 0.1f;
      row_of_filter(sums[oldest], start, h, table);
    }
  }
  report(out, begin, stamp());
  float sum = 0;
#pragma unroll
  for (int c = 0; c < 2; ++c)
#pragma unroll
    for (int j = 0; j < OWN; ++j) sum += sums[0][c][j] + sums[1][c][j] + s[c][j];
  if (turns < 0) sink[threadIdx.x] = sum;
}

// a cluster's barrier, and 16 KiB of sums read from each of its blocks
template <int SIZE> __device__ void exchanges(long long* out, float* sink, int turns) {
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  float sum = 0;
  cluster_arrive();
  cluster_wait();
  const Stamp begin = stamp();
  for (int turn = 0; turn < turns; ++turn) {
#pragma unroll
    for (int other = 0; other < SIZE; ++other)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float4 v = lds_remote(map_rank(sm + 16 * (threadIdx.x + 256 * i), (cluster_rank() + other) % SIZE));
        sum += v.x + v.y + v.z + v.w;
      }
    cluster_arrive();
    cluster_wait();
  }
  report(out, begin, stamp());
  if (turns < 0) sink[threadIdx.x] = sum;
}
__device__ void cluster_barriers(long long* out, int turns) {
  cluster_arrive();
  cluster_wait();
  const Stamp begin = stamp();
  for (int turn = 0; turn < turns; ++turn) {
    cluster_arrive();
    cluster_wait();
  }
  report(out, begin, stamp());
}

extern "C" {
#define PRODUCTS(N, LINKS) \
  __global__ void __launch_bounds__(512, 1) products_##N##_##LINKS(long long* out, float* sink, int turns) { products<N, LINKS>(out, sink, turns); }
#define WIDE_PRODUCTS(N, LINKS) \
  __global__ void __launch_bounds__(256, 1) products_##N##_##LINKS(long long* out, float* sink, int turns) { products<N, LINKS>(out, sink, turns); }
PRODUCTS(8, 1) PRODUCTS(8, 4) PRODUCTS(8, 8)
PRODUCTS(24, 1) PRODUCTS(24, 4) PRODUCTS(24, 8)
PRODUCTS(32, 1) PRODUCTS(32, 4) PRODUCTS(32, 8)
PRODUCTS(64, 1) PRODUCTS(64, 4) PRODUCTS(64, 8)
PRODUCTS(128, 1) PRODUCTS(128, 4) PRODUCTS(128, 8)
WIDE_PRODUCTS(256, 1) WIDE_PRODUCTS(256, 4) WIDE_PRODUCTS(256, 8)
__global__ void __launch_bounds__(512, 1) activations_64(long long* out, float* sink, int turns) { activations(out, sink, turns); }
__global__ void __launch_bounds__(512, 1) bottleneck_64_64(long long* out, float* sink, int turns) { bottleneck<64, 64, 4>(out, sink, turns); }
__global__ void __launch_bounds__(512, 1) bottleneck_64_32(long long* out, float* sink, int turns) { bottleneck<64, 32, 8>(out, sink, turns); }
__global__ void __launch_bounds__(384, 1) bottleneck_128_32(long long* out, float* sink, int turns) { bottleneck<128, 32, 16>(out, sink, turns); }
__global__ void __launch_bounds__(512) small_products_1(long long* out, float* sink, int turns) { small_products<1>(out, sink, turns); }
__global__ void __launch_bounds__(512) small_products_4(long long* out, float* sink, int turns) { small_products<4>(out, sink, turns); }
__global__ void __launch_bounds__(512) small_products_8(long long* out, float* sink, int turns) { small_products<8>(out, sink, turns); }

// a block's barrier
__global__ void __launch_bounds__(512) barriers(long long* out, float*, int turns) {
  __syncthreads();
  const Stamp begin = stamp();
  for (int turn = 0; turn < turns; ++turn) bar_sync(1 + threadIdx.x / 128, 128);
  report(out, begin, stamp());
}

// a dependent chain of special functions
__global__ void functions(long long* out, float* sink, int turns) {
  uint32_t h = noise(threadIdx.x);
  const Stamp begin = stamp();
  for (int turn = 0; turn < turns; ++turn) asm volatile("tanh.approx.f16x2 %0, %0;" : "+r"(h));
  report(out, begin, stamp());
  if (turns < 0) sink[threadIdx.x] = h;
}
// a dependent chain of matrices from shared memory
__global__ void shared_loads(long long* out, float* sink, int turns) {
  __shared__ __align__(16) uint32_t zeros[256];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) zeros[i] = 0;
  __syncthreads();
  const uint32_t from = smem_u32(zeros) + threadIdx.x % 8 * 16;
  uint32_t r[4] = {0, 0, 0, 0};
  const Stamp begin = stamp();
  for (int turn = 0; turn < turns; ++turn) ldsm4(r, from + r[0]);
  report(out, begin, stamp());
  if (turns < 0) sink[threadIdx.x] = r[0];
}
// what a kernel does between products: places of pixels by division, bounds, addresses, packed halves
__global__ void __launch_bounds__(1024) ordinary(long long* out, float* sink, int turns, int height, int width, int channels) {
  uint32_t i = threadIdx.x, sum = 0;
  float v = threadIdx.x;
  __syncthreads();
  const Stamp begin = stamp();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn, i += 96) {  // one after the other: nothing of the next to fill the latencies of this one
    const uint32_t g = i % 8, p = i / 8, y = p / 10 - 1, x = p % 10 - 1;
    const bool inside = y < (uint32_t)height && x < (uint32_t)width;
    const uint32_t at = inside ? (y * width + x) * channels + g * 8 : 0;
    sum = add2(sum, pack2(v + (float)(at & 255), v)) ^ at;
    v += __uint_as_float(sum & 0x3fffffffu);
  }
  report(out, begin, stamp());
  if (turns < 0) sink[threadIdx.x] = sum + v;
}
// multiply-adds of eight values side by side, which do not wait for each other
__global__ void __launch_bounds__(1024) unrolled(long long* out, float* sink, int turns) {
  float v[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = threadIdx.x + i;
  __syncthreads();
  const Stamp begin = stamp();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn)
#pragma unroll
    for (int i = 0; i < 64; ++i) asm volatile("fma.rn.f32 %0, %0, %0, %0;" : "+f"(v[i % 8]));
  report(out, begin, stamp());
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += v[i];
  if (turns < 0) sink[threadIdx.x] = sum;
}
// multiply-adds of three registers each, 24 sums side by side
__global__ void __launch_bounds__(512, 1) multiply_adds(long long* out, float* sink, int turns) {
  float a[24], w[6], h[8];
#pragma unroll
  for (int j = 0; j < 24; ++j) a[j] = j + threadIdx.x;
#pragma unroll
  for (int j = 0; j < 6; ++j) w[j] = 1.f + 1e-6f * (j + threadIdx.x);
#pragma unroll
  for (int j = 0; j < 8; ++j) h[j] = 1e-3f * (j + threadIdx.x);
  __syncthreads();
  const Stamp begin = stamp();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn)
#pragma unroll
    for (int u = 0; u < 6; ++u)
#pragma unroll
      for (int j = 0; j < 24; ++j) a[j] = fmaf(h[(j + u) % 8], w[u], a[j]);
  report(out, begin, stamp());
  float sum = 0;
#pragma unroll
  for (int j = 0; j < 24; ++j) sum += a[j];
  if (turns < 0) sink[threadIdx.x] = sum;
}
__global__ void __launch_bounds__(512, 1) walk(long long* out, float* sink, int turns) { walks<false>(out, sink, turns); }
__global__ void __launch_bounds__(512, 1) walk_with_functions(long long* out, float* sink, int turns) { walks<true>(out, sink, turns); }
// a dependent chain of loads from L2, or from DRAM where nobody has read them: `words` holds at each step the index of the next
__global__ void global_loads(long long* out, float* sink, int turns, const uint32_t* words, uint32_t first) {
  uint32_t at = first;
  const Stamp begin = stamp();
  for (int turn = 0; turn < turns; ++turn) asm volatile("ld.global.cg.b32 %0, [%1];" : "=r"(at) : "l"(words + at) : "memory");
  report(out, begin, stamp());
  if (turns < 0) sink[threadIdx.x] = at;
}
#define CLUSTER(SIZE) \
  __global__ void __launch_bounds__(256) __cluster_dims__(SIZE, 1, 1) exchanges_##SIZE(long long* out, float* sink, int turns) { exchanges<SIZE>(out, sink, turns); } \
  __global__ void __launch_bounds__(256) __cluster_dims__(SIZE, 1, 1) cluster_barriers_##SIZE(long long* out, float*, int turns) { cluster_barriers(out, turns); } \
  __global__ void __launch_bounds__(512, 1) __cluster_dims__(SIZE, 1, 1) cluster_nothing_##SIZE(int* out) { pdl_wait(); pdl_launch(); cluster_arrive(); cluster_wait(); if (out == nullptr) __nanosleep(1); }
CLUSTER(2) CLUSTER(4) CLUSTER(8)
// bytes that every block reads: 64 KiB a turn, 512 threads, eight loads on their way
__global__ void __launch_bounds__(512) same_reads(long long* out, float* sink, int turns, const uint4* words) {
  uint4 v[8];
  uint32_t sum = 0;
  __syncthreads();
  const Stamp begin = stamp();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v[i].x), "=r"(v[i].y), "=r"(v[i].z), "=r"(v[i].w)
                   : "l"(words + (turn % 16 * 8 + i) * 512 + threadIdx.x));
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += v[i].x + v[i].y + v[i].z + v[i].w;
  }
  __syncthreads();
  report(out, begin, stamp());
  if (turns < 0) sink[threadIdx.x] = sum;
}
// how blocks that share a tile meet: sums to L2, a fence, a count, and sums read back
__global__ void __launch_bounds__(256) meetings(long long* out, float* sink, int turns, float4* sums, unsigned* arrived) {
  float4 v = make_float4(threadIdx.x, 1, 2, 3);
  __shared__ unsigned seen;
  __syncthreads();
  const Stamp begin = stamp();
  for (int turn = 0; turn < turns; ++turn) {
    __stcg(sums + threadIdx.x, v);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) seen = atomicAdd(arrived, 1u);
    __syncthreads();
    __threadfence();
    const float4 w = __ldcg(sums + (threadIdx.x + seen) % 256);
    v.x += w.y;
  }
  report(out, begin, stamp());
  if (turns < 0) sink[threadIdx.x] = v.x;
}
// what any launch of a fused kernel takes: a block to a multiprocessor that reserves all of its shared memory
__global__ void __launch_bounds__(512, 1) resident_nothing(int* out) {
  pdl_wait();
  pdl_launch();
  if (out == nullptr) __nanosleep(1);
}
// the same of blocks that store their results at their end: 32 KiB each
__device__ __forceinline__ void store_results(int* out) {
  for (int i = threadIdx.x; i < 2048; i += 512) reinterpret_cast<uint4*>(out)[blockIdx.x * 2048 + i] = make_uint4(i, i, i, i);
}
__global__ void __launch_bounds__(512, 1) resident_stores(int* out) {
  pdl_wait();
  pdl_launch();
  store_results(out);
}
__global__ void __launch_bounds__(512, 1) __cluster_dims__(2, 1, 1) cluster_stores_2(int* out) {
  pdl_wait();
  pdl_launch();
  cluster_arrive();
  cluster_wait();
  store_results(out);
}
}
