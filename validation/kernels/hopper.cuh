// What the Hopper kernels (sm_90a) share: wrappers of single PTX instructions, and silu on packed halves.
#pragma once
#include "instructions.cuh"
#include "wgmma.cuh"

// A CUtensorMap as the host encodes it: passed by value as a __grid_constant__ argument.
struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

// ------------------------------------------------------------------------------------------------ PTX wrappers
// The thread in its block. volatile: not read again (slow) under register pressure
__device__ __forceinline__ int thread_index() { int i; asm volatile("mov.u32 %0, %%tid.x;" : "=r"(i)); return i; }
// The lane in its warp, likewise: where all that follows from it is not to be kept (spilled) until then
__device__ __forceinline__ int lane_index() { int i; asm volatile("mov.u32 %0, %%laneid;" : "=r"(i)); return i; }
// A value that the compiler must not take for another one, nor what follows from it: reckoned anew instead of kept
__device__ __forceinline__ int anew(int v) { int r; asm volatile("mov.u32 %0, %1;" : "=r"(r) : "r"(v)); return r; }
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void bar_sync(int id, int n) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory"); }
// Registers of each thread of a warpgroup, from now on: more than the launch gave it, or fewer
template <int N> __device__ __forceinline__ void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> __device__ __forceinline__ void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }

__device__ __forceinline__ void stsm2(uint32_t a, uint32_t r0, uint32_t r1) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1,%2};" ::"r"(a), "r"(r0), "r"(r1) : "memory");
}
__device__ __forceinline__ void stsm4(uint32_t a, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(a), "r"(r0), "r"(r1), "r"(r2), "r"(r3) : "memory");
}
__device__ __forceinline__ void stsm2_transposed(uint32_t a, uint32_t r0, uint32_t r1) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1,%2};" ::"r"(a), "r"(r0), "r"(r1) : "memory");
}
__device__ __forceinline__ void stsm4_transposed(uint32_t a, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(a), "r"(r0), "r"(r1), "r"(r2), "r"(r3) : "memory");
}
__device__ __forceinline__ void sts128(uint32_t a, const float* v) {
  asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(a), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]) : "memory");
}
__device__ __forceinline__ void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }
__device__ __forceinline__ uint4 ldg128(const void* p) {  // not by the read-only path: where it stands
  uint4 v;
  asm volatile("ld.global.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}

// --------------------------------------------------------------------------------------------- register helpers
template <int SLOTS> struct Position {                                               // in a ring of items
  int slot;
  uint32_t phase;
  __device__ __forceinline__ void next() { if (++slot == SLOTS) { slot = 0; phase ^= 1; } }
  __device__ __forceinline__ void next(int items) { if ((slot += items) >= SLOTS) { slot -= SLOTS; phase ^= 1; } }
};
struct Divisor {                                                                     // of whole numbers below 2^31
  int d;
  uint32_t reciprocal;                                                               // (2^32 - 1) / d: the quotient or one less
  __device__ __forceinline__ int operator()(int v) const {
    const int k = __umulhi(v, reciprocal);
    return k + (v - k * d >= d);
  }
};
__device__ __forceinline__ uint32_t tanh2(uint32_t v) {
  uint32_t t;
  asm("tanh.approx." TYPE_NAME "x2 %0, %1;" : "=r"(t) : "r"(v));
  return t;
}
// silu(2h) = h + h*tanh(h): of pre-activations that are already halved
__device__ __forceinline__ uint32_t silu_packed(uint32_t h) { return bits_of(__hfma2(pair_of(h), pair_of(tanh2(h)), pair_of(h))); }
__device__ __forceinline__ uint32_t silu2(float s0, float s1, uint32_t b) { return silu_packed(add2(pack2(s0, s1), b)); }  // b: half the bias
// what a lane has of 64 x 16 sums -> A operand; b0, b1: half the biases of its columns in the two blocks of eight
__device__ __forceinline__ void silu_block(uint32_t (&p)[4], const float* s, uint32_t b0, uint32_t b1) {
  p[0] = silu2(s[0], s[1], b0);
  p[1] = silu2(s[2], s[3], b0);
  p[2] = silu2(s[4], s[5], b1);
  p[3] = silu2(s[6], s[7], b1);
}
__device__ __forceinline__ void silu_block(uint32_t (&p)[4], const float* s, uint32_t bias) {                     // where b0, b1 lie
  uint32_t b0, b1;
  lds64(b0, b1, bias);
  silu_block(p, s, b0, b1);
}
// a lane's biases of a chunk of 16*KB columns: half2 of each block of eight. Issued before S is waited for.
template <int KB> __device__ __forceinline__ void load_bias(uint32_t (&b)[2 * KB], uint32_t bias_addr) {
#pragma unroll
  for (int i = 0; i < KB / 2; ++i) {
    uint4 v = lds128(bias_addr + 16 * i);
    b[4 * i] = v.x; b[4 * i + 1] = v.y; b[4 * i + 2] = v.z; b[4 * i + 3] = v.w;
  }
}
// 64 x (16*KB) chunk of S -> A operand of the projection
template <int KB> __device__ __forceinline__ void silu_chunk(const float (&s)[8 * KB], uint32_t (&p)[KB][4], const uint32_t (&b)[2 * KB]) {
#pragma unroll
  for (int k = 0; k < KB; ++k) silu_block(p[k], s + 8 * k, b[2 * k], b[2 * k + 1]);
}
template <int KB> __device__ __forceinline__ void silu_chunk(const float (&s)[8 * KB], uint32_t (&p)[KB][4], uint32_t bias_addr) {
  uint32_t b[2 * KB];
  load_bias<KB>(b, bias_addr);
  silu_chunk<KB>(s, p, b);
}

// ------------------------------------------------------------------------------------- mbarriers, bulk copies, PDL
__device__ __forceinline__ void mbar_init(uint32_t b, int n) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(b), "r"(n) : "memory"); }
__device__ __forceinline__ void mbar_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void mbar_expect(uint32_t b, int n) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(n) : "memory"); }
__device__ __forceinline__ void mbar_arrive(uint32_t b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory"); }
__device__ __forceinline__ void mbar_arrive(uint32_t b, int n) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(n) : "memory"); }
__device__ __forceinline__ void mbar_wait(uint32_t b, uint32_t parity) {
  asm volatile("{ .reg .pred p;\nL_%=: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra L_%=; }" ::"r"(b), "r"(parity) : "memory");
}
// An item of a ring, once it is there: the offset of its slot in a descriptor. Uniform, yet opaque, or ptxas keeps (spills) the
// descriptors of all items.
template <int ITEM, int SLOTS> __device__ __forceinline__ uint64_t item(uint32_t full, const Position<SLOTS>& r) {
  mbar_wait(full + 8 * r.slot, r.phase);
  return (uint64_t)__shfl_sync(~0u, r.slot * (ITEM >> 4), 0);
}
__device__ __forceinline__ void bulk_load(uint32_t dst, const void* src, int bytes, uint32_t bar) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst), "l"(src), "r"(bytes), "r"(bar) : "memory");
}
__device__ __forceinline__ void tma_load2(uint32_t dst, const TensorMap* map, int c0, int c1, uint32_t bar) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
               ::"r"(dst), "l"(map), "r"(c0), "r"(c1), "r"(bar) : "memory");
}
__device__ __forceinline__ void tma_store2(const TensorMap* map, int c0, int c1, uint32_t src) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(c0), "r"(c1), "r"(src) : "memory");
}
__device__ __forceinline__ void tma_load3(uint32_t dst, const TensorMap* map, int c0, int c1, int c2, uint32_t bar) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
               ::"r"(dst), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(bar) : "memory");
}
__device__ __forceinline__ void tma_store3(const TensorMap* map, int c0, int c1, int c2, uint32_t src) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%1, %2, %3}], [%4];"
               ::"l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(src) : "memory");
}
__device__ __forceinline__ void tma_load4(uint32_t dst, const TensorMap* map, int c0, int c1, int c2, int c3, uint32_t bar) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];"
               ::"r"(dst), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(bar) : "memory");
}
__device__ __forceinline__ void tma_store4(const TensorMap* map, int c0, int c1, int c2, int c3, uint32_t src) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4}], [%5];"
               ::"l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(src) : "memory");
}
// into the L2 cache, where whatever the grid before still writes arrives as well: allowed before its results are waited for
__device__ __forceinline__ void tma_prefetch2(const TensorMap* map, int c0, int c1) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(map), "r"(c0), "r"(c1) : "memory");
}
__device__ __forceinline__ void tma_prefetch3(const TensorMap* map, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global [%0, {%1, %2, %3}];" ::"l"(map), "r"(c0), "r"(c1), "r"(c2) : "memory");
}
__device__ __forceinline__ void tma_prefetch4(const TensorMap* map, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.prefetch.tensor.4d.L2.global [%0, {%1, %2, %3, %4}];" ::"l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3) : "memory");
}
__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
__device__ __forceinline__ void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ void bulk_wait_all() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
// programmatic dependent launch: the next grid may start filling freed SMs; wait for the previous grid's results
__device__ __forceinline__ void pdl_launch() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void pdl_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// ------------------------------------------------------------------------------------------------------- clusters
__device__ __forceinline__ uint32_t cluster_rank() { uint32_t r; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
// for a thread that hands over nothing but places, whose reads are over: others' values are in its registers
__device__ __forceinline__ void cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
__device__ __forceinline__ uint32_t map_rank(uint32_t addr, uint32_t rank) {  // the same place in another block of the cluster
  uint32_t r;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(addr), "r"(rank));
  return r;
}
__device__ __forceinline__ void mbar_arrive_remote(uint32_t b) { asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(b) : "memory"); }
// between the blocks of a cluster: what was written before the arrival is seen after the wait
__device__ __forceinline__ void mbar_release_remote(uint32_t b) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(b) : "memory");
}
__device__ __forceinline__ void mbar_acquire(uint32_t b, uint32_t parity) {
  asm volatile("{ .reg .pred p;\nL_%=: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n@!p bra L_%=; }" ::"r"(b), "r"(parity) : "memory");
}
// to the same place in every block of `mask`, counted by the barrier at the same place there
__device__ __forceinline__ void bulk_load_multicast(uint32_t dst, const void* src, int bytes, uint32_t bar, uint32_t mask) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;"
               ::"r"(dst), "l"(src), "r"(bytes), "r"(bar), "h"((unsigned short)mask) : "memory");
}
__device__ __forceinline__ float4 lds_remote(uint32_t a) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(a) : "memory");
  return v;
}
__device__ __forceinline__ void sts_remote(uint32_t a, const float* v) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(a), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]) : "memory");
}
// Sums of the blocks of a cluster, each of which has parts of all columns of a tile: the blocks of eight columns are finished by the
// ranks in turn, EACH of them by each. Of a block of columns a thread holds four sums, of rows g and g + 8 of its warp's sixteen: 16
// bytes, which it writes to the same place in the memory of the rank that finishes them, those of HOLDERS threads one after the other.
// So a warp writes whole lines of another block's memory, and meets no bank twice in its own. Each begins with itself, so that not
// all write to one block at a time; the order of a sum is that of the ranks. SHARING warpgroups have different columns of the same rows.
template <int RANKS, int EACH, int HOLDERS, int SHARING = 1> struct Sums {
  static constexpr int LINE = HOLDERS * 16, TARGETS = RANKS / SHARING;
  static constexpr int MINE = EACH > SHARING ? EACH / SHARING : 1, UNITS = 16 * MINE, TURNS = (UNITS + 31) / 32;
  static constexpr int AT_ONCE = RANKS * MINE <= 16 ? MINE : RANKS < 16 ? 16 / RANKS : 1;   // of columns, as far as registers reach
  static_assert(RANKS % SHARING == 0 && MINE % AT_ONCE == 0, "whole groups");
  uint32_t place;                                                                    // this thread's, of the first block
  int rank, part;                                                                    // of the cluster; of the warpgroups

  // the two barriers, for those of the cluster's threads that have no sums
  static __device__ __forceinline__ void attend() {
    for (int i = 0; i < 2; ++i) {
      cluster_arrive_relaxed();
      cluster_wait();
    }
  }
  // between them: all of this thread's sums
  __device__ __forceinline__ void give(const float (&v)[4 * TARGETS * EACH]) const {
#pragma unroll 1
    for (int k = 0; k < TARGETS; ++k) {
      const int target = (rank + k) % TARGETS;
      const uint32_t to = map_rank(place + rank * (EACH * LINE), part * TARGETS + target);
#pragma unroll
      for (int t = 0; t < TARGETS; ++t)
        if (t == target) {
#pragma unroll
          for (int i = 4 * t * EACH, line = 0; line < EACH; i += 4, ++line) sts_remote(to + line * LINE, v + i);
        }
    }
  }
  __device__ __forceinline__ bool finishes() const { return part * MINE < EACH; }
  __device__ __forceinline__ int first() const { return rank * EACH + part * MINE; }   // block of columns that is finished here
  // after the second barrier: the sums of all blocks, as halves, where those of the first were
  __device__ __forceinline__ void add(int lane) const {
#pragma unroll
    for (int b = 0; b < MINE; b += AT_ONCE) {
      float v[4 * AT_ONCE] = {};
#pragma unroll
      for (int from = 0; from < RANKS; ++from)
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
          const uint4 w = lds128(place + (from * EACH + part * MINE + b + i) * LINE);
#pragma unroll
          for (int k = 0; k < 4; ++k) v[4 * i + k] += __uint_as_float((&w.x)[k]);
        }
      __syncwarp();                                                                  // the warp has read them
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) stsm2(row(lane, lane & 15, b + i), pack2(v[4 * i], v[4 * i + 1]), pack2(v[4 * i + 2], v[4 * i + 3]));
    }
    __syncwarp();
  }
  // after that, of a row of the warp's sixteen: one of the MINE blocks
  __device__ __forceinline__ uint4 halves(int lane, int r, int block) const { return lds128(row(lane, r, block)); }

  // the same of a column's block, which is the first here or one of the next, with what is added: x, and the bias, which lies as
  // [h][block of eight columns], two columns each
  __device__ __forceinline__ uint4 output(int lane, int r, int block, uint32_t bias, const uint4& x) const {
    uint4 v = halves(lane, r, block);
#pragma unroll
    for (int h = 0; h < 4; ++h) (&v.x)[h] = add2(add2((&v.x)[h], lds32(bias + h * (4 * EACH * RANKS) + (first() + block) * 4)), (&x.x)[h]);
    return v;
  }

 private:
  __device__ __forceinline__ uint32_t row(int lane, int r, int block) const {        // those of eight blocks in different banks
    return place - lane * 16 + (part * MINE + block) * LINE + (r ^ (block & 7)) * 16;
  }
};
