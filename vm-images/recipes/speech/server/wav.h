/* Reads the one kind of WAV file that the recogniser understands, and says clearly what is wrong with any other. */
#ifndef SPEECHD_WAV_H
#define SPEECHD_WAV_H

#include <stddef.h>
#include <stdint.h>

enum {
    WAV_RATE_HZ = 16000,
    /* Longest recording. A guess: longer than anything said to a handheld at a time. 60 s of speech took 192 s under TCG on a
     * busy 2-core machine, and take about 12 s natively (both measured). */
    WAV_MAX_SECONDS = 60,
    WAV_MAX_AUDIO_BYTES = WAV_MAX_SECONDS * WAV_RATE_HZ * 2,
    /* Room for the chunks before the audio, such as the name of the recording program. */
    WAV_MAX_FILE_BYTES = WAV_MAX_AUDIO_BYTES + 64 * 1024,
};

struct wav {
    const uint8_t *audio; /* Little-endian 16-bit samples inside the file; not aligned. */
    size_t samples;
};

/* Finds the samples. Returns the HTTP status: 200, or another one with the reason in `error`. Reads no byte outside `file`. */
int wav_parse(const uint8_t *file, size_t bytes, struct wav *wav, char *error, size_t error_size);

#endif
