#include "wav.h"

#include <stdio.h>
#include <string.h>

#define EXPECTED "expected a WAV file with 16 kHz, mono, 16-bit PCM"

static uint32_t u16_at(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }
static uint32_t u32_at(const uint8_t *p) { return u16_at(p) | u16_at(p + 2) << 16; }

static int check_format(const uint8_t *fmt, size_t bytes, char *error, size_t error_size)
{
    enum { PCM = 1, EXTENSIBLE = 0xfffe };

    if (bytes < 16) {
        snprintf(error, error_size, EXPECTED "; its format chunk has only %zu bytes", bytes);
        return 400;
    }
    uint32_t format = u16_at(fmt);
    if (format == EXTENSIBLE && bytes >= 26)
        format = u16_at(fmt + 24); /* The first two bytes of the sub-format are the old format number. */
    uint32_t channels = u16_at(fmt + 2), rate_hz = u32_at(fmt + 4), bits = u16_at(fmt + 14);
    if (format != PCM || channels != 1 || rate_hz != WAV_RATE_HZ || bits != 16) {
        snprintf(error, error_size, EXPECTED "; this one has format %u, %u Hz, %u channels, %u bits", format, rate_hz,
                 channels, bits);
        return 415;
    }
    return 200;
}

static int check_audio(size_t bytes, char *error, size_t error_size)
{
    if (bytes == 0) {
        snprintf(error, error_size, EXPECTED "; this one has no audio in it");
        return 400;
    }
    if (bytes % 2 != 0) {
        snprintf(error, error_size, EXPECTED "; the audio ends in the middle of a sample (%zu bytes)", bytes);
        return 400;
    }
    if (bytes > WAV_MAX_AUDIO_BYTES) {
        snprintf(error, error_size, "at most %d s of audio are recognised at a time; this is %zu s", WAV_MAX_SECONDS,
                 bytes / 2 / WAV_RATE_HZ);
        return 413;
    }
    return 200;
}

int wav_parse(const uint8_t *file, size_t bytes, struct wav *wav, char *error, size_t error_size)
{
    const uint32_t until_the_end = UINT32_MAX; /* What a program writes that streams and does not know the length yet. */
    int format_seen = 0;

    if (bytes < 12 || memcmp(file, "RIFF", 4) != 0 || memcmp(file + 8, "WAVE", 4) != 0) {
        snprintf(error, error_size, EXPECTED "; this is no WAV file");
        return 415;
    }
    for (size_t at = 12; bytes - at >= 8;) {
        const uint8_t *id = file + at;
        uint32_t length = u32_at(file + at + 4);
        size_t left = bytes - at - 8;
        int is_audio = memcmp(id, "data", 4) == 0;

        at += 8;
        if (is_audio && length == until_the_end)
            length = (uint32_t)left;
        if (length > left) {
            snprintf(error, error_size, EXPECTED "; it is cut off: a chunk of %u bytes has only %zu", length, left);
            return 400;
        }
        if (is_audio) {
            if (!format_seen)
                break;
            *wav = (struct wav){.audio = file + at, .samples = length / 2};
            return check_audio(length, error, error_size);
        }
        if (memcmp(id, "fmt ", 4) == 0) {
            int status = check_format(file + at, length, error, error_size);
            if (status != 200)
                return status;
            format_seen = 1;
        }
        at += length;
        if (length % 2 != 0 && at < bytes)
            at++; /* Chunks start at even offsets. */
    }
    snprintf(error, error_size, EXPECTED "; it has no %s chunk", format_seen ? "data" : "format");
    return 400;
}
