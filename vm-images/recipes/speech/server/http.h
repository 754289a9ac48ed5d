/* One HTTP/1.1 exchange on a connection: reads a request within limits of size and time, writes one answer, closes. */
#ifndef SPEECHD_HTTP_H
#define SPEECHD_HTTP_H

#include <stddef.h>
#include <stdint.h>

enum {
    HTTP_MAX_HEADER_BYTES = 8 * 1024,
    HTTP_HEADER_LIMIT_MS = 10 * 1000, /* Guess: a slow radio link needs under a second for 8 KiB at 100 kbit/s. */
    HTTP_BODY_LIMIT_MS = 180 * 1000,  /* 60 s of audio are 1.9 MB: 150 s at 100 kbit/s. */
    HTTP_IDLE_LIMIT_MS = 15 * 1000,   /* Longest silence in the middle of a body. */
};

struct request {
    char header[HTTP_MAX_HEADER_BYTES + 1]; /* Everything up to the empty line; ends with a zero byte. */
    const char *method, *path;              /* Inside `header`. */
    size_t content_length;
    int has_length, wants_continue;
    size_t early_bytes; /* Bytes of the body that came together with the header. */
    uint8_t early[HTTP_MAX_HEADER_BYTES];
};

/* Reads a request's header. Returns 200, 0 if the client went away, or the status to refuse with and why in `error`. */
int http_read_header(int socket, struct request *request, char *error, size_t error_size);

/* Reads the body into `body`, which has room for request->content_length bytes. Returns as http_read_header(). */
int http_read_body(int socket, struct request *request, uint8_t *body, char *error, size_t error_size);

/* Answers with JSON. `extra` is further header lines, each ended with CR LF, or "". Without `with_body`, sends the header alone. */
void http_answer(int socket, int status, const char *extra, const char *json, int with_body);

/* Answers {"error": …}. */
void http_refuse(int socket, int status, const char *extra, const char *error, int with_body);

/* Writes `text` as the inside of a JSON string; what does not fit is left out. */
void json_escape(const char *text, char *out, size_t out_size);

/* Closes so that the answer arrives even if the client is still sending. */
void http_close(int socket);

#endif
