/* What stands between the sanitizer build, made by gcc, and the libFuzzer of atheris.
 *
 * Preloaded before libFuzzer and libasan, which have empty functions of some of these names.
 */
#include <stddef.h>
#include <stdint.h>

#define LOG2_COUNTERS 14

/* libFuzzer's; weak, for the tests run without it. */
void __sanitizer_cov_8bit_counters_init(uint8_t *, uint8_t *) __attribute__((weak));
void __sanitizer_cov_pcs_init(const uintptr_t *, const uintptr_t *) __attribute__((weak));
size_t LLVMFuzzerMutate(uint8_t *, size_t, size_t) __attribute__((weak));

/* Which branches of the native modules an input reached. gcc calls __sanitizer_cov_trace_pc() in
 * each basic block (-fsanitize-coverage=trace-pc), which libFuzzer no longer counts: it wants
 * counters such as clang puts into the code. */
static uint8_t counters[1u << LOG2_COUNTERS];
static uintptr_t pcs[2u << LOG2_COUNTERS]; /* an address and flags for each: libFuzzer checks that */

void __sanitizer_cov_trace_pc(void)
{
    const uint32_t pc = (uint32_t)(uintptr_t)__builtin_return_address(0);
    counters[pc * 0x9E3779B1u >> (32 - LOG2_COUNTERS)]++;
}

/* To be called once, when libFuzzer is there. */
void dc_show_counters(void)
{
    for (uint32_t i = 0; i < 1u << LOG2_COUNTERS; i++) {
        pcs[2 * i] = (uintptr_t)&counters[i];
    }
    __sanitizer_cov_8bit_counters_init(counters, counters + (1u << LOG2_COUNTERS));
    __sanitizer_cov_pcs_init(pcs, pcs + (2u << LOG2_COUNTERS));
}

/* A mutator of our own. atheris offers one only where libFuzzer is not preloaded. */
typedef size_t dc_mutator(uint8_t *, size_t, size_t, unsigned);

static dc_mutator *mutator;

void dc_use_mutator(dc_mutator *chosen)
{
    mutator = chosen;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    return mutator ? mutator(data, size, max_size, seed) : LLVMFuzzerMutate(data, size, max_size);
}
