/* Lets libFuzzer, inside atheris, see which branches of the native modules an input reaches.
 *
 * gcc calls __sanitizer_cov_trace_pc() in each basic block (-fsanitize-coverage=trace-pc), which
 * libFuzzer no longer counts: it wants counters such as clang puts into the code. So they are kept
 * here. Preloaded before libFuzzer and libasan, which have empty functions of the same name.
 */
#include <stdint.h>

#define LOG2_COUNTERS 14

void __sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *end);
void __sanitizer_cov_pcs_init(const uintptr_t *start, const uintptr_t *end);

static uint8_t counters[1u << LOG2_COUNTERS];
static uintptr_t pcs[2u << LOG2_COUNTERS]; /* an address and flags for each: libFuzzer checks that */

/* To be called once, when libFuzzer is there. */
void dc_show_counters(void)
{
    for (uint32_t i = 0; i < 1u << LOG2_COUNTERS; i++) {
        pcs[2 * i] = (uintptr_t)&counters[i];
    }
    __sanitizer_cov_8bit_counters_init(counters, counters + (1u << LOG2_COUNTERS));
    __sanitizer_cov_pcs_init(pcs, pcs + (2u << LOG2_COUNTERS));
}

void __sanitizer_cov_trace_pc(void)
{
    const uint32_t pc = (uint32_t)(uintptr_t)__builtin_return_address(0);
    counters[pc * 0x9E3779B1u >> (32 - LOG2_COUNTERS)]++;
}
