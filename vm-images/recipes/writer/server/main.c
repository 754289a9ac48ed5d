/* writerd: writes to memory and to a file, each at a set rate, and checks every byte of it over HTTP.
 *
 *   GET  /healthz   200 {"pages":N,"records":N}: how many were written since the start; a record counts once it is on the disk
 *   POST /rate?memory=BYTES_PER_S&disk=BYTES_PER_S   from now on; both are 0 at the start
 *   GET  /check     200 and the same as /healthz if every page and every record is as it was written last; else 500, and the first that is not
 *
 *   writerd PORT FILE
 *
 * Pages and records are written in a random order. The file is read past the page cache, so what is checked is the disk. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "block.h"

enum {
    PAGES = 8192,            /* 32 MiB of memory, */
    RECORDS = 4096,          /* 16 MiB on the disk. */
    READ_BLOCKS = 64,        /* Records that are read at a time. */
    ROUND_MS = 50,           /* A round of writing; records are on the disk at its end. */
    MAX_BEHIND_MS = 500,     /* What was missed by more is not made up for: a guest that stood still does not hurry afterwards. */
    MAX_CONNECTIONS = 16,
    STACK_BYTES = 128 * 1024,
};

/* One side: memory, or the file. How often each block was written is kept apart from the blocks. */
struct side {
    int blocks;
    uint64_t *counts;
    pthread_mutex_t lock;
    atomic_ulong bytes_per_s;
    atomic_ulong written;
    int file;        /* -1: memory */
    int direct;      /* The file again, read past the page cache. */
    uint8_t *memory; /* All pages, or room to read records. */
};

static struct side memory = {.blocks = PAGES, .lock = PTHREAD_MUTEX_INITIALIZER, .file = -1};
static struct side disk = {.blocks = RECORDS, .lock = PTHREAD_MUTEX_INITIALIZER};
static atomic_int connections;

static void die(const char *what)
{
    fprintf(stderr, "writerd: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static uint64_t *block_of(struct side *side, int place)
{
    return (uint64_t *)(side->memory + (size_t)place * BLOCK_BYTES);
}

/* Writes this many blocks; those of the file are on the disk when it returns. */
static void write_blocks(struct side *side, uint64_t count, uint64_t *random)
{
    static _Alignas(BLOCK_BYTES) uint64_t record[BLOCK_BYTES / 8];

    pthread_mutex_lock(&side->lock);
    for (uint64_t i = 0; i < count; i++) {
        *random = *random * 6364136223846793005 + 1442695040888963407;
        int place = (int)((*random >> 33) % (uint64_t)side->blocks);
        uint64_t *block = side->file < 0 ? block_of(side, place) : record;
        side->counts[place]++;
        if (side->file >= 0)
            block_fill(record, (uint64_t)place);
        block_write(block, (uint64_t)place, side->counts[place]);
        if (side->file >= 0 && pwrite(side->file, record, BLOCK_BYTES, (off_t)place * BLOCK_BYTES) != BLOCK_BYTES)
            die("cannot write a record");
    }
    if (side->file >= 0 && count > 0 && fdatasync(side->file) != 0)
        die("cannot bring records to the disk");
    pthread_mutex_unlock(&side->lock);
    atomic_fetch_add(&side->written, count);
}

static void *writer_thread(void *argument)
{
    struct side *side = argument;
    uint64_t random = (uint64_t)side->blocks, before = now_ms(), owed = 0;

    for (;;) {
        usleep(ROUND_MS * 1000);
        uint64_t now = now_ms(), passed = now - before;
        before = now;
        owed += atomic_load(&side->bytes_per_s) * (passed < MAX_BEHIND_MS ? passed : MAX_BEHIND_MS) / 1000;
        if (owed >= BLOCK_BYTES)
            write_blocks(side, owed / BLOCK_BYTES, &random);
        owed %= BLOCK_BYTES;
    }
    return NULL;
}

static void prepare(struct side *side, const char *path)
{
    size_t room = (size_t)(path == NULL ? side->blocks : READ_BLOCKS) * BLOCK_BYTES;
    if (posix_memalign((void **)&side->memory, BLOCK_BYTES, room) != 0 ||
        (side->counts = calloc((size_t)side->blocks, sizeof *side->counts)) == NULL)
        die("no memory");
    if (path != NULL && ((side->file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600)) < 0 ||
                         (side->direct = open(path, O_RDONLY | O_DIRECT)) < 0))
        die(path);
    for (int place = 0; place < side->blocks; place++) {
        uint64_t *block = path == NULL ? block_of(side, place) : (uint64_t *)side->memory;
        block_fill(block, (uint64_t)place);
        if (path != NULL && pwrite(side->file, block, BLOCK_BYTES, (off_t)place * BLOCK_BYTES) != BLOCK_BYTES)
            die("cannot write the first records");
    }
    if (path != NULL && fsync(side->file) != 0)
        die("cannot bring the first records to the disk");
}

/* The block at this place as it is now; NULL if it cannot be read. */
static const uint64_t *look(struct side *side, int place)
{
    if (side->file < 0)
        return block_of(side, place);
    if (place % READ_BLOCKS == 0 && pread(side->direct, side->memory, READ_BLOCKS * BLOCK_BYTES, (off_t)place * BLOCK_BYTES) !=
                                        READ_BLOCKS * BLOCK_BYTES)
        return NULL;
    return block_of(side, place % READ_BLOCKS);
}

/* 0 if all blocks are right. */
static int check(struct side *side, const char *what, char *error, size_t error_size)
{
    int word = -1;
    pthread_mutex_lock(&side->lock);
    for (int place = 0; place < side->blocks && word < 0; place++) {
        const uint64_t *block = look(side, place);
        if (block == NULL) {
            word = 0;
            snprintf(error, error_size, "%s %d cannot be read: %s", what, place, strerror(errno));
        } else if ((word = block_check(block, (uint64_t)place, side->counts[place])) >= 0) {
            snprintf(error, error_size, "%s %d is wrong from word %d on: written %llu times, it holds place %llu and time %llu", what,
                     place, word, (unsigned long long)side->counts[place], (unsigned long long)block[0],
                     (unsigned long long)block[1]);
        }
    }
    pthread_mutex_unlock(&side->lock);
    return word >= 0;
}

static void answer(int socket, int status, const char *json)
{
    char text[768];
    int bytes = snprintf(text, sizeof text,
                         "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                         status, status == 200 ? "OK" : "Error", strlen(json), json);
    for (int sent = 0; sent < bytes;) {
        ssize_t part = send(socket, text + sent, (size_t)(bytes - sent), MSG_NOSIGNAL);
        if (part <= 0)
            return;
        sent += (int)part;
    }
}

static void answer_counts(int socket)
{
    char json[100];
    snprintf(json, sizeof json, "{\"pages\":%lu,\"records\":%lu}\n", atomic_load(&memory.written), atomic_load(&disk.written));
    answer(socket, 200, json);
}

static void answer_check(int socket)
{
    char error[300] = "", json[400];
    if (check(&memory, "page", error, sizeof error) == 0 && check(&disk, "record", error, sizeof error) == 0) {
        answer_counts(socket);
        return;
    }
    snprintf(json, sizeof json, "{\"error\":\"%s\"}\n", error);
    answer(socket, 500, json);
}

static void serve(int socket)
{
    char request[2048];
    size_t have = 0;
    unsigned long memory_rate, disk_rate;

    do {
        ssize_t got = recv(socket, request + have, sizeof request - 1 - have, 0);
        if (got <= 0)
            return;
        have += (size_t)got;
        request[have] = '\0';
    } while (strstr(request, "\r\n\r\n") == NULL && have < sizeof request - 1);
    if (strncmp(request, "GET /healthz ", 13) == 0) {
        answer_counts(socket);
    } else if (strncmp(request, "GET /check ", 11) == 0) {
        answer_check(socket);
    } else if (sscanf(request, "POST /rate?memory=%lu&disk=%lu ", &memory_rate, &disk_rate) == 2) {
        atomic_store(&memory.bytes_per_s, memory_rate);
        atomic_store(&disk.bytes_per_s, disk_rate);
        answer_counts(socket);
    } else {
        answer(socket, 404, "{\"error\":\"there are GET /healthz, GET /check and POST /rate?memory=BYTES_PER_S&disk=BYTES_PER_S\"}\n");
    }
}

static void *connection_thread(void *argument)
{
    int socket = (int)(intptr_t)argument;
    serve(socket);
    shutdown(socket, SHUT_WR);
    close(socket);
    atomic_fetch_sub(&connections, 1);
    return NULL;
}

static void start_thread(void *(*function)(void *), void *argument)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    if ((errno = pthread_create(&thread, &attributes, function, argument)) != 0)
        die("cannot start a thread");
    pthread_attr_destroy(&attributes);
}

int main(int argc, char **argv)
{
    long port = argc == 3 ? strtol(argv[1], NULL, 10) : 0;
    if (port < 1 || port > 65535) {
        fprintf(stderr, "usage: writerd PORT FILE\n");
        return 2;
    }
    prepare(&memory, NULL);
    prepare(&disk, argv[2]);
    start_thread(writer_thread, &memory);
    start_thread(writer_thread, &disk);

    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 64) != 0)
        die("cannot listen");
    for (;;) {
        int socket = accept(listener, NULL, NULL);
        struct timeval limit = {.tv_sec = 15};
        if (socket < 0)
            continue;
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        if (atomic_fetch_add(&connections, 1) < MAX_CONNECTIONS) {
            start_thread(connection_thread, (void *)(intptr_t)socket);
        } else {
            atomic_fetch_sub(&connections, 1);
            close(socket);
        }
    }
}
