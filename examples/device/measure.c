/* Instructions of one step: SysTick around 100 steps. Under "qemu-system-arm -icount shift=0" an
 * instruction takes one nanosecond, so a tick of the 25 MHz clock is 40 instructions. On hardware the
 * same program counts clock cycles. */
#include <stdint.h>
#include <stdio.h>

#include HEADER /* the exported network, with NAME, INPUT, OUTPUT and their types given by the Makefile */

#define SYST_CSR (*(volatile uint32_t *)0xE000E010U)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014U)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018U)
#define STEPS 100U
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

int main(void)
{
    static JOIN(NAME, _state) state;
    static OUTPUT_TYPE output[OUTPUT];
    static INPUT_TYPE input[INPUT];
    (void)input;
    JOIN(NAME, _init)(&state);
    SYST_RVR = 0xFFFFFFU;
    SYST_CVR = 0U;
    SYST_CSR = 5U; /* the processor's clock, no interrupt */
    const uint32_t start = SYST_CVR;
    for (uint32_t t = 0U; t < STEPS; t++) {
#if defined(TOKENS)
        (void)JOIN(NAME, _step)(&state, t % TOKENS, output);
#else
        input[0] = (INPUT_TYPE)((t * 37U) % 100U);
        JOIN(NAME, _step)(&state, input, output);
#endif
    }
    const uint32_t ticks = (start - SYST_CVR) & 0xFFFFFFU;
    printf("%lu ticks for %u steps\n", (unsigned long)ticks, STEPS);
    return 0;
}
