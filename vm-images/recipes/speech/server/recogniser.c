#include "recogniser.h"

#include <pocketsphinx.h>
#include <pthread.h>
#include <sphinxbase/cmn.h>
#include <sphinxbase/err.h>
#include <sphinxbase/feat.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static ps_decoder_t *decoder;
static pthread_mutex_t decoder_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int loaded;
static atomic_ulong done;

/* The decoder adapts its cepstral mean to what it hears, and keeps that between utterances. On a server the next request comes
 * from another person and microphone, and equal audio must give equal words whatever came before. So the state after loading
 * is kept, and put back before each request. All other state is reset by ps_start_stream() and ps_start_utt(). */
static struct {
    mfcc_t *mean, *sum;
    int32 frames;
} fresh;

uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static cmn_t *cepstral_mean(void) { return ps_get_feat(decoder)->cmn_struct; }

static int remember_fresh_state(void)
{
    cmn_t *cmn = cepstral_mean();
    if (cmn == NULL)
        return 0;
    size_t bytes = (size_t)cmn->veclen * sizeof(mfcc_t);
    fresh.mean = malloc(bytes);
    fresh.sum = malloc(bytes);
    if (fresh.mean == NULL || fresh.sum == NULL)
        return -1;
    memcpy(fresh.mean, cmn->cmn_mean, bytes);
    memcpy(fresh.sum, cmn->sum, bytes);
    fresh.frames = cmn->nframe;
    return 0;
}

static void restore_fresh_state(void)
{
    cmn_t *cmn = cepstral_mean();
    if (cmn == NULL)
        return;
    size_t bytes = (size_t)cmn->veclen * sizeof(mfcc_t);
    memcpy(cmn->cmn_mean, fresh.mean, bytes);
    memcpy(cmn->sum, fresh.sum, bytes);
    cmn->nframe = fresh.frames;
}

/* The library tells hundreds of lines about each model and utterance; only its errors are kept. */
static void log_errors(void *unused, err_lvl_t level, const char *format, ...)
{
    va_list arguments;

    (void)unused;
    if (level < ERR_ERROR)
        return;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
}

int recogniser_load(int argc, char **argv)
{
    err_set_callback(log_errors, NULL);
    err_set_logfp(NULL); /* Where the list of all settings would go. */
    cmd_ln_t *config = cmd_ln_parse_r(NULL, ps_args(), argc, argv, TRUE);
    if (config == NULL) {
        fprintf(stderr, "speechd: an option is none of pocketsphinx's\n");
        return -1;
    }
    ps_default_search_args(config);
    decoder = ps_init(config);
    cmd_ln_free_r(config); /* The decoder holds a reference of its own. */
    if (decoder == NULL || remember_fresh_state() != 0) {
        fprintf(stderr, "speechd: the model cannot be loaded; is pocketsphinx-en-us installed, and is there memory?\n");
        return -1;
    }
    atomic_store(&loaded, 1);
    return 0;
}

int recogniser_is_loaded(void) { return atomic_load(&loaded); }
unsigned long recogniser_done(void) { return atomic_load(&done); }

/* Ends the utterance and appends its words. */
static int finish_utterance(int wanted, struct recognition *result)
{
    int32 score = 0;

    if (ps_end_utt(decoder) < 0)
        return -1;
    const char *words = wanted ? ps_get_hyp(decoder, &score) : NULL;
    if (words == NULL || *words == '\0')
        return 0;
    size_t have = strlen(result->text), more = strlen(words);
    char *text = realloc(result->text, have + more + 2);
    if (text == NULL)
        return -1;
    result->text = text;
    snprintf(text + have, more + 2, "%s%s", have ? " " : "", words);
    result->score += score;
    return 0;
}

/* The same steps as `pocketsphinx_continuous -infile`: blocks of 2048 samples, a new utterance after each pause. */
static int decode(const struct wav *wav, struct recognition *result)
{
    int16 block[2048];
    int speaking = 0;

    restore_fresh_state();
    if (ps_start_stream(decoder) < 0 || ps_start_utt(decoder) < 0)
        return -1;
    for (size_t at = 0; at < wav->samples;) {
        size_t count = wav->samples - at < 2048 ? wav->samples - at : 2048;
        memcpy(block, wav->audio + at * sizeof(int16), count * sizeof(int16));
        at += count;
        if (ps_process_raw(decoder, block, count, FALSE, FALSE) < 0) {
            ps_end_utt(decoder);
            return -1;
        }
        int hears_speech = ps_get_in_speech(decoder);
        if (speaking && !hears_speech) {
            if (finish_utterance(1, result) < 0 || ps_start_utt(decoder) < 0)
                return -1;
        }
        speaking = hears_speech;
    }
    return finish_utterance(speaking, result);
}

int recogniser_run(const struct wav *wav, struct recognition *result)
{
    *result = (struct recognition){.text = calloc(1, 1)};
    if (result->text == NULL)
        return -1;
    uint64_t asked_ms = now_ms();
    pthread_mutex_lock(&decoder_lock);
    uint64_t started_ms = now_ms();
    int outcome = decode(wav, result);
    result->waited_ms = started_ms - asked_ms;
    result->took_ms = now_ms() - started_ms;
    pthread_mutex_unlock(&decoder_lock);
    if (outcome == 0)
        atomic_fetch_add(&done, 1);
    return outcome;
}
