#include "http.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "recogniser.h" /* now_ms() */

/* Waits until there is something to read. 1: there is, 0: the time is up, -1: broken. */
static int wait_readable(int socket, uint64_t deadline_ms)
{
    for (;;) {
        uint64_t now = now_ms();
        if (now >= deadline_ms)
            return 0;
        struct pollfd p = {.fd = socket, .events = POLLIN};
        int ready = poll(&p, 1, (int)(deadline_ms - now));
        if (ready > 0)
            return 1;
        if (ready < 0 && errno != EINTR)
            return -1;
    }
}

/* Reads up to `room` bytes. Bytes read; 0: the client went away; -1: the time is up. */
static ssize_t receive(int socket, void *into, size_t room, uint64_t deadline_ms)
{
    for (;;) {
        int ready = wait_readable(socket, deadline_ms);
        if (ready <= 0)
            return ready == 0 ? -1 : 0;
        ssize_t got = recv(socket, into, room, MSG_DONTWAIT);
        if (got >= 0)
            return got;
        if (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK)
            return 0;
    }
}

static int send_all(int socket, const char *bytes, size_t count)
{
    while (count > 0) {
        ssize_t sent = send(socket, bytes, count, MSG_NOSIGNAL); /* SO_SNDTIMEO bounds the wait. */
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return -1;
        bytes += sent;
        count -= (size_t)sent;
    }
    return 0;
}

static int parse_length(struct request *r, const char *value, char *error, size_t error_size)
{
    size_t length = 0, digits = strspn(value, "0123456789");
    if (digits == 0 || digits > 15 || value[digits + strspn(value + digits, " \t")] != '\0') {
        snprintf(error, error_size, "Content-Length is not a number of bytes");
        return 400;
    }
    for (size_t i = 0; i < digits; i++)
        length = length * 10 + (size_t)(value[i] - '0');
    if (r->has_length && length != r->content_length) {
        snprintf(error, error_size, "there are two different Content-Length headers");
        return 400;
    }
    r->content_length = length;
    r->has_length = 1;
    return 200;
}

static int parse_field(struct request *r, char *line, char *error, size_t error_size)
{
    char *value = strchr(line, ':');
    if (value == NULL || value == line || strcspn(line, " \t") < (size_t)(value - line)) {
        snprintf(error, error_size, "a header line is not 'Name: value'");
        return 400;
    }
    *value++ = '\0';
    value += strspn(value, " \t");
    if (strcasecmp(line, "Content-Length") == 0)
        return parse_length(r, value, error, error_size);
    if (strcasecmp(line, "Transfer-Encoding") == 0) {
        snprintf(error, error_size, "send the body whole, with a Content-Length header; transfer encodings are not supported");
        return 411;
    }
    if (strcasecmp(line, "Expect") == 0) {
        if (strcasecmp(value, "100-continue") != 0) {
            snprintf(error, error_size, "of expectations, only 100-continue is supported");
            return 417;
        }
        r->wants_continue = 1;
    }
    return 200;
}

/* Splits the header, which ends with an empty line, in place. */
static int parse_header(struct request *r, char *error, size_t error_size)
{
    char *line = r->header, *end = strstr(line, "\r\n");
    char *path, *version;

    *end = '\0';
    if ((path = strchr(line, ' ')) == NULL || (version = strchr(path + 1, ' ')) == NULL || path == line) {
        snprintf(error, error_size, "the request line is not 'METHOD PATH HTTP/1.1'");
        return 400;
    }
    *path++ = '\0';
    *version++ = '\0';
    r->method = line;
    r->path = path;
    path[strcspn(path, "?")] = '\0'; /* No path takes a query. */
    if (strncmp(version, "HTTP/1.", 7) != 0 || strlen(version) != 8 || !isdigit((unsigned char)version[7])) {
        snprintf(error, error_size, "only HTTP/1.1 and HTTP/1.0 are spoken");
        return 505;
    }
    for (line = end + 2; (end = strstr(line, "\r\n")) != NULL && end != line; line = end + 2) {
        *end = '\0';
        int status = parse_field(r, line, error, error_size);
        if (status != 200)
            return status;
    }
    return 200;
}

int http_read_header(int socket, struct request *r, char *error, size_t error_size)
{
    uint64_t deadline_ms = now_ms() + HTTP_HEADER_LIMIT_MS;
    size_t have = 0;
    char *end = NULL;

    r->method = r->path = "";
    r->content_length = r->early_bytes = 0;
    r->has_length = r->wants_continue = 0;
    while (end == NULL) {
        if (have == HTTP_MAX_HEADER_BYTES) {
            snprintf(error, error_size, "the header is longer than %d bytes", HTTP_MAX_HEADER_BYTES);
            return 431;
        }
        ssize_t got = receive(socket, r->header + have, HTTP_MAX_HEADER_BYTES - have, deadline_ms);
        if (got == 0)
            return 0;
        if (got < 0) {
            snprintf(error, error_size, "the header did not arrive within %d s", HTTP_HEADER_LIMIT_MS / 1000);
            return 408;
        }
        size_t looked_at = have > 3 ? have - 3 : 0; /* The end may be split between two reads. */
        have += (size_t)got;
        end = memmem(r->header + looked_at, have - looked_at, "\r\n\r\n", 4);
    }
    size_t header_bytes = (size_t)(end - r->header) + 4;
    r->early_bytes = have - header_bytes;
    memcpy(r->early, r->header + header_bytes, r->early_bytes);
    r->header[header_bytes] = '\0';
    if (memchr(r->header, '\0', header_bytes) != NULL) {
        snprintf(error, error_size, "the header has a zero byte in it");
        return 400;
    }
    return parse_header(r, error, error_size);
}

int http_read_body(int socket, struct request *r, uint8_t *body, char *error, size_t error_size)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    size_t have = r->early_bytes < r->content_length ? r->early_bytes : r->content_length;
    uint64_t deadline_ms = now_ms() + HTTP_BODY_LIMIT_MS;

    memcpy(body, r->early, have);
    if (r->wants_continue && have == 0 && send_all(socket, go_on, sizeof go_on - 1) != 0)
        return 0;
    while (have < r->content_length) {
        uint64_t idle_ms = now_ms() + HTTP_IDLE_LIMIT_MS;
        ssize_t got =
            receive(socket, body + have, r->content_length - have, idle_ms < deadline_ms ? idle_ms : deadline_ms);
        if (got == 0)
            return 0;
        if (got < 0) {
            snprintf(error, error_size, "the body arrives too slowly: %zu of %zu bytes so far", have, r->content_length);
            return 408;
        }
        have += (size_t)got;
    }
    return 200;
}

static const char *reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 411: return "Length Required";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
    default: return "Error";
    }
}

void http_answer(int socket, int status, const char *extra, const char *json, int with_body)
{
    char header[512];
    size_t length = strlen(json);
    int bytes = snprintf(header, sizeof header,
                         "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                         "Cache-Control: no-store\r\nConnection: close\r\n%s\r\n",
                         status, reason(status), length, extra);
    if (bytes > 0 && (size_t)bytes < sizeof header && send_all(socket, header, (size_t)bytes) == 0 && with_body)
        send_all(socket, json, length);
}

void http_refuse(int socket, int status, const char *extra, const char *error, int with_body)
{
    char json[1024] = "{\"error\":\"";
    size_t start = strlen(json);
    json_escape(error, json + start, sizeof json - start - 3);
    strcat(json, "\"}\n");
    http_answer(socket, status, extra, json, with_body);
}

void json_escape(const char *text, char *out, size_t out_size)
{
    size_t at = 0;
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        char piece[8];
        if (c == '"' || c == '\\')
            snprintf(piece, sizeof piece, "\\%c", c);
        else if (c < 0x20)
            snprintf(piece, sizeof piece, "\\u%04x", c);
        else
            snprintf(piece, sizeof piece, "%c", c);
        size_t length = strlen(piece);
        if (at + length + 1 > out_size)
            break;
        memcpy(out + at, piece, length);
        at += length;
    }
    out[at] = '\0';
}

void http_close(int socket)
{
    /* Closing with unread bytes would reset the connection, and the client might never see the answer. */
    char rest[4096];
    size_t thrown_away = 0;
    uint64_t deadline_ms = now_ms() + 2000;
    shutdown(socket, SHUT_WR);
    while (thrown_away < 4 * WAV_MAX_FILE_BYTES) {
        ssize_t got = receive(socket, rest, sizeof rest, deadline_ms);
        if (got <= 0)
            break;
        thrown_away += (size_t)got;
    }
    close(socket);
}
