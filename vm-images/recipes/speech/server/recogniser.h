/* The decoder: loaded once, used by one request at a time, and every request finds it as if it had just been loaded. */
#ifndef SPEECHD_RECOGNISER_H
#define SPEECHD_RECOGNISER_H

#include <stddef.h>
#include <stdint.h>

#include "wav.h"

struct recognition {
    char *text;         /* Words with single spaces between them; free() it. Empty if nothing was understood. */
    int32_t score;      /* Sum of the path scores of all utterances, logarithmic; only to be compared for the same audio. */
    uint64_t waited_ms; /* Until the decoder was free. */
    uint64_t took_ms;   /* Recognition alone. */
};

/* Loads the model. `argc` and `argv` are pocketsphinx's own options. Returns 0, or -1 after a line on standard error. */
int recogniser_load(int argc, char **argv);

/* Whether the model is loaded. Any thread, never blocks. */
int recogniser_is_loaded(void);

/* Recognitions done since the start. Any thread, never blocks. */
unsigned long recogniser_done(void);

/* Recognises; waits for its turn. Returns 0, or -1 if the decoder failed (then the process should be restarted). */
int recogniser_run(const struct wav *wav, struct recognition *result);

uint64_t now_ms(void);

#endif
