/* speechd: recognises spoken English over HTTP.
 *
 *   GET  /healthz    200 {"status":"ok",…} once the model is loaded, 503 before; also answers while a recognition runs
 *   POST /recognize  a WAV file (16 kHz, mono, 16-bit PCM) -> 200 {"text":"…","audio_ms":…,"waited_ms":…,"took_ms":…,"score":…}
 *   errors           {"error":"…"} that says what was expected
 *
 *   speechd PORT [pocketsphinx option]…
 *
 * One thread for each connection, at most MAX_CONNECTIONS; recognitions run one after the other. */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "http.h"
#include "recogniser.h"
#include "wav.h"

/* Each may hold a recording of 2 MB. */
enum { MAX_CONNECTIONS = 16, STACK_BYTES = 512 * 1024 };

static atomic_int connections;

static void answer_health(int socket, int with_body)
{
    char json[160];
    if (!recogniser_is_loaded()) {
        http_refuse(socket, 503, "Retry-After: 1\r\n", "the model is still being loaded", with_body);
        return;
    }
    snprintf(json, sizeof json, "{\"status\":\"ok\",\"model\":\"en-us\",\"recognitions\":%lu}\n", recogniser_done());
    http_answer(socket, 200, "", json, with_body);
}

static void answer_recognition(int socket, const struct wav *wav)
{
    struct recognition r;
    if (recogniser_run(wav, &r) != 0) {
        free(r.text);
        http_refuse(socket, 500, "", "the decoder failed; the service restarts", 1);
        http_close(socket);
        fprintf(stderr, "speechd: the decoder failed, leaving so that it is loaded anew\n");
        _exit(1);
    }
    size_t text_size = 6 * strlen(r.text) + 1, json_size = text_size + 200;
    char *text = malloc(text_size), *json = malloc(json_size);
    if (text == NULL || json == NULL) {
        http_refuse(socket, 503, "Retry-After: 1\r\n", "out of memory, try again", 1);
    } else {
        json_escape(r.text, text, text_size);
        snprintf(json, json_size, "{\"text\":\"%s\",\"audio_ms\":%zu,\"waited_ms\":%llu,\"took_ms\":%llu,\"score\":%d}\n",
                 text, wav->samples * 1000 / WAV_RATE_HZ, (unsigned long long)r.waited_ms, (unsigned long long)r.took_ms,
                 (int)r.score);
        http_answer(socket, 200, "", json, 1);
    }
    free(text);
    free(json);
    free(r.text);
}

/* Checks what is announced before any of it is stored. */
static int check_announced(const struct request *r, char *error, size_t error_size)
{
    if (!recogniser_is_loaded()) {
        snprintf(error, error_size, "the model is still being loaded");
        return 503;
    }
    if (!r->has_length) {
        snprintf(error, error_size, "the Content-Length header is missing");
        return 411;
    }
    if (r->content_length == 0) {
        snprintf(error, error_size, "the body is empty; expected a WAV file with 16 kHz, mono, 16-bit PCM");
        return 400;
    }
    if (r->content_length > WAV_MAX_FILE_BYTES) {
        snprintf(error, error_size, "the body has %zu bytes; at most %d s of audio (%d bytes) are recognised at a time",
                 r->content_length, WAV_MAX_SECONDS, WAV_MAX_FILE_BYTES);
        return 413;
    }
    return 200;
}

static void recognize(int socket, struct request *r)
{
    char error[256] = "";
    struct wav wav;
    uint8_t *body = NULL;
    int status = check_announced(r, error, sizeof error);

    if (status == 200 && (body = malloc(r->content_length)) == NULL) {
        snprintf(error, sizeof error, "out of memory, try again");
        status = 503;
    }
    if (status == 200)
        status = http_read_body(socket, r, body, error, sizeof error);
    if (status == 200)
        status = wav_parse(body, r->content_length, &wav, error, sizeof error);
    if (status == 200)
        answer_recognition(socket, &wav);
    else if (status != 0)
        http_refuse(socket, status, status == 503 ? "Retry-After: 1\r\n" : "", error, 1);
    free(body);
}

static void serve(int socket)
{
    struct request r;
    char error[256] = "";
    int status = http_read_header(socket, &r, error, sizeof error);

    if (status == 0)
        return;
    int is_get = strcmp(r.method, "GET") == 0, is_head = strcmp(r.method, "HEAD") == 0;
    if (status != 200) {
        http_refuse(socket, status, "", error, !is_head);
    } else if (strcmp(r.path, "/healthz") == 0) {
        if (is_get || is_head)
            answer_health(socket, is_get);
        else
            http_refuse(socket, 405, "Allow: GET, HEAD\r\n", "/healthz takes GET", 1);
    } else if (strcmp(r.path, "/recognize") == 0) {
        if (strcmp(r.method, "POST") == 0)
            recognize(socket, &r);
        else
            http_refuse(socket, 405, "Allow: POST\r\n", "/recognize takes POST with a WAV file", !is_head);
    } else {
        http_refuse(socket, 404, "", "there are GET /healthz and POST /recognize", !is_head);
    }
}

static void *connection_thread(void *argument)
{
    int socket = (int)(intptr_t)argument;
    serve(socket);
    http_close(socket);
    atomic_fetch_sub(&connections, 1);
    return NULL;
}

static void start_connection(int socket, const pthread_attr_t *attributes)
{
    struct timeval limit = {.tv_sec = 15};
    pthread_t thread;

    setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (atomic_fetch_add(&connections, 1) < MAX_CONNECTIONS &&
        pthread_create(&thread, attributes, connection_thread, (void *)(intptr_t)socket) == 0)
        return;
    atomic_fetch_sub(&connections, 1);
    http_refuse(socket, 503, "Retry-After: 1\r\n", "too many connections at a time, try again", 1);
    char rest[4096]; /* What came already; unread, it would reset the connection before the answer is read. */
    shutdown(socket, SHUT_WR);
    recv(socket, rest, sizeof rest, MSG_DONTWAIT);
    close(socket);
}

static void *accept_thread(void *argument)
{
    int listener = (int)(intptr_t)argument;
    pthread_attr_t attributes;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    for (;;) {
        int socket = accept(listener, NULL, NULL);
        if (socket >= 0)
            start_connection(socket, &attributes);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            usleep(100 * 1000); /* Others must finish first. */
        else if (errno == EBADF || errno == EINVAL || errno == ENOTSOCK)
            abort();
    }
}

static int listen_on(unsigned port)
{
    int yes = 1, s = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (s < 0 || bind(s, (struct sockaddr *)&address, sizeof address) != 0 || listen(s, 64) != 0) {
        fprintf(stderr, "speechd: cannot listen on port %u: %s\n", port, strerror(errno));
        return -1;
    }
    return s;
}

int main(int argc, char **argv)
{
    char *end = NULL;
    unsigned long port = argc > 1 ? strtoul(argv[1], &end, 10) : 0;
    pthread_t acceptor;

    if (argc < 2 || *argv[1] == '\0' || *end != '\0' || port == 0 || port > 65535) {
        fprintf(stderr, "usage: speechd PORT [pocketsphinx option]...\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}); /* A core would hold what people said. */
    int listener = listen_on((unsigned)port);
    /* Health is answered while the model loads. */
    if (listener < 0 || pthread_create(&acceptor, NULL, accept_thread, (void *)(intptr_t)listener) != 0)
        return 1;
    argv[1] = argv[0];
    if (recogniser_load(argc - 1, argv + 1) != 0)
        return 1;
    fprintf(stderr, "speechd: ready on port %lu\n", port);
    pthread_join(acceptor, NULL);
    return 1;
}
