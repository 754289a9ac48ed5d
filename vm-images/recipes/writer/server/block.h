/* What a block of 4096 bytes holds: its place, how often it was written, and a pattern of both. No two are alike, and one that is
 * at the wrong place, or older than it should be, is found. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { BLOCK_BYTES = 4096 };

/* Fills a block for the first time. */
void block_fill(uint64_t *block, uint64_t place);

/* Writes it for the `count`th time: place and count, and one eighth of it. The rest does not change, as most of a page of a
 * program does not; both parts are random, so no compressor makes less of them. */
void block_write(uint64_t *block, uint64_t place, uint64_t count);

/* Number of the first of its 512 words that is not as the `count`th time of writing left it; -1 if all are. */
int block_check(const uint64_t *block, uint64_t place, uint64_t count);
