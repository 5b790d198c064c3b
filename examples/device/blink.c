/* A character model that writes on a board: at every step it takes its own most likely character, and
 * the LED changes whenever a word ends. Export with --name model first; see docs/device.md. */
#include <stdint.h>

#include "model.h"
#include "symbols.h" /* SPACE: the token of a space; TEXT[token]: its character */

#include <stdio.h>

#define LED (*(volatile uint32_t *)0x40028000U) /* FPGAIO of the MPS2 boards */

int main(void)
{
    static model_state state;
    static OUTPUT_TYPE output[MODEL_OUTPUT_SIZE];
    uint32_t token = SPACE;
    model_init(&state);
    for (uint32_t t = 0U; t < 200U; t++) {
        if (model_step(&state, token, output) != 0) {
            return 1;
        }
        uint32_t best = 0U;
        for (uint32_t v = 1U; v < MODEL_OUTPUT_SIZE; v++) {
            best = (output[v] > output[best]) ? v : best;
        }
        token = best;
        putchar(TEXT[token]);
        if (token == SPACE) {
            LED ^= 1U;
        }
    }
    putchar('\n');
    return 0;
}
