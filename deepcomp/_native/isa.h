/* Instruction sets: how a kernel is compiled for each, and which one this machine has.
 *
 * The package is built for the plain baseline of the architecture. A kernel that gains from
 * more is an inline body that is compiled again in a function with a DC_TARGET_ attribute;
 * the caller passes the number of the instruction set to use (deepcomp/_kernels.py).
 */
#ifndef DEEPCOMP_ISA_H
#define DEEPCOMP_ISA_H

#include <stdlib.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "deepcomp's native code needs a little-endian machine"
#endif

enum { DC_ISA_PORTABLE = 0, DC_ISA_AVX2 = 1, DC_ISA_AVX512 = 2 };

#if defined(__GNUC__)
#define DC_INLINE static inline __attribute__((always_inline))
#else
#define DC_INLINE static inline
#endif

#if defined(__GNUC__) && defined(__x86_64__)
#define DC_HAVE_X86 1
#define DC_TARGET_AVX2 __attribute__((target("avx2,fma,bmi,bmi2,lzcnt,popcnt")))
#define DC_TARGET_AVX512 \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,bmi,bmi2,lzcnt,popcnt")))
#else
#define DC_HAVE_X86 0
#endif

/* The debug build checks what the callers promised; the release build trusts it. */
#ifdef DEEPCOMP_DEBUG
#define DC_CHECK(condition) ((condition) ? (void)0 : abort())
#else
#define DC_CHECK(condition) ((void)0)
#endif

static inline int dc_best_isa(void)
{
#if DC_HAVE_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")) {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
            return DC_ISA_AVX512;
        }
        return DC_ISA_AVX2;
    }
#endif
    return DC_ISA_PORTABLE;
}

#endif
