#include "block.h"

enum { WORDS = BLOCK_BYTES / 8, CHANGING = WORDS / 8 };

/* Sebastiano Vigna's splitmix64. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static uint64_t word(uint64_t place, uint64_t count, int number)
{
    if (number == 0)
        return place;
    if (number == 1)
        return count;
    return mix(mix(place << 9 | (uint64_t)number) + (number < CHANGING ? count : 0));
}

void block_fill(uint64_t *block, uint64_t place)
{
    for (int i = 0; i < WORDS; i++)
        block[i] = word(place, 0, i);
}

void block_write(uint64_t *block, uint64_t place, uint64_t count)
{
    for (int i = 0; i < CHANGING; i++)
        block[i] = word(place, count, i);
}

int block_check(const uint64_t *block, uint64_t place, uint64_t count)
{
    for (int i = 0; i < WORDS; i++)
        if (block[i] != word(place, count, i))
            return i;
    return -1;
}
