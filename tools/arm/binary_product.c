/* The best that we could write by hand of a binary product for 64-bit ARM, for tools/arm/cycles.py to compare with.

   Six rows by sixteen outputs: 24 accumulators of byte counts, four registers of weights, one broadcast word.
   weights: [words][16]; rows: [6][words]; counts: uint8 [6][16][4], at most 31 words. */
#include <arm_neon.h>
#include <stdint.h>

void binary_product(const uint32_t *weights, const uint32_t *rows, long words, uint8x16_t *counts) {
    uint8x16_t acc[6][4];
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 4; j++) acc[i][j] = vdupq_n_u8(0);
    for (long k = 0; k < words; k++) {
        uint8x16_t w[4];
        for (int j = 0; j < 4; j++) w[j] = vreinterpretq_u8_u32(vld1q_u32(weights + 16 * k + 4 * j));
#pragma clang loop unroll(full)
        for (int i = 0; i < 6; i++) {
            uint8x16_t x = vreinterpretq_u8_u32(vld1q_dup_u32(rows + i * words + k));
#pragma clang loop unroll(full)
            for (int j = 0; j < 4; j++) acc[i][j] = vaddq_u8(acc[i][j], vcntq_u8(veorq_u8(x, w[j])));
        }
    }
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 4; j++) counts[4 * i + j] = acc[i][j];
}
