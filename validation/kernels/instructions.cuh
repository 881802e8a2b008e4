// What all kernels share (sm_80 and later, fp16 or bf16: BF16): the half type, wrappers of single instructions, silu.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
using uint32_t = unsigned int;

// ----------------------------------------------------------------------------------------------------- the half type
#if BF16
using Element = __nv_bfloat16;
using Element2 = __nv_bfloat162;
#define TYPE_NAME "bf16"
__device__ __forceinline__ Element2 round2(float lo, float hi) { return __floats2bfloat162_rn(lo, hi); }
__device__ __forceinline__ float2 widen2(Element2 v) { return __bfloat1622float2(v); }
__device__ __forceinline__ float widen(Element v) { return __bfloat162float(v); }
#else
using Element = __half;
using Element2 = __half2;
#define TYPE_NAME "f16"
__device__ __forceinline__ Element2 round2(float lo, float hi) { return __floats2half2_rn(lo, hi); }
__device__ __forceinline__ float2 widen2(Element2 v) { return __half22float2(v); }
__device__ __forceinline__ float widen(Element v) { return __half2float(v); }
#endif
__device__ __forceinline__ Element2 pair_of(uint32_t v) { return *reinterpret_cast<Element2*>(&v); }
__device__ __forceinline__ uint32_t bits_of(Element2 v) { return *reinterpret_cast<uint32_t*>(&v); }
__device__ __forceinline__ uint32_t pack2(float lo, float hi) { return bits_of(round2(lo, hi)); }
__device__ __forceinline__ float2 unpack2(uint32_t v) { return widen2(pair_of(v)); }
__device__ __forceinline__ uint32_t add2(uint32_t a, uint32_t b) { return bits_of(__hadd2(pair_of(a), pair_of(b))); }
__device__ __forceinline__ uint32_t mul2(uint32_t a, uint32_t b) { return bits_of(__hmul2(pair_of(a), pair_of(b))); }

// silu(2u) = u + u * tanh(u): of a pre-activation that is already halved
__device__ __forceinline__ float silu(float u) {
  float t;
  asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(u));
  return fmaf(u, t, u);
}

// ------------------------------------------------------------------------------------------------------ shared memory
__device__ __forceinline__ uint32_t smem_u32(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void cp_async16(uint32_t to, const void* from, bool inside) {  // zero-fills where not inside
  const int n = inside ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(n) : "memory");
}
__device__ __forceinline__ void cp_async4(uint32_t to, const void* from, bool inside) {  // zero-fills where not inside
  const int n = inside ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(n) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
__device__ __forceinline__ void ldsm4(uint32_t (&r)[4], uint32_t a) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}
__device__ __forceinline__ void ldsm2(uint32_t& r0, uint32_t& r1, uint32_t a) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r0), "=r"(r1) : "r"(a) : "memory");
}
// Matrices of 8x8 halves, transposed: a lane (q, g) gets elements g of rows 2q and 2q+1
__device__ __forceinline__ void ldsm4_transposed(uint32_t (&r)[4], uint32_t a) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}
__device__ __forceinline__ void ldsm2_transposed(uint32_t (&r)[2], uint32_t a) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(a) : "memory");
}
__device__ __forceinline__ uint32_t lds32(uint32_t a) {
  uint32_t v;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(a) : "memory");
  return v;
}
__device__ __forceinline__ void lds64(uint32_t& v0, uint32_t& v1, uint32_t a) {
  asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(v0), "=r"(v1) : "r"(a) : "memory");
}
__device__ __forceinline__ uint2 lds64(uint32_t a) {
  uint2 v;
  lds64(v.x, v.y, a);
  return v;
}
__device__ __forceinline__ uint4 lds128(uint32_t a) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(a) : "memory");
  return v;
}
__device__ __forceinline__ void sts32(uint32_t a, uint32_t v) { asm volatile("st.shared.b32 [%0], %1;" ::"r"(a), "r"(v) : "memory"); }
__device__ __forceinline__ void sts64(uint32_t a, uint32_t v0, uint32_t v1) {
  asm volatile("st.shared.v2.b32 [%0], {%1,%2};" ::"r"(a), "r"(v0), "r"(v1) : "memory");
}
__device__ __forceinline__ void sts128(uint32_t a, const uint32_t (&v)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(a), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
}

// ---------------------------------------------------------------------------------------------------- the matrix unit
// D (16x8, fp32) += A (16x16) . B (16x8), and the form with 8 for the inner 16
__device__ __forceinline__ void mma16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE_NAME "." TYPE_NAME ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma1688(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32." TYPE_NAME "." TYPE_NAME ".f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(b));
}
