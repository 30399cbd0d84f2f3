/* fairway: the CNI plugin executable. It carries one call to the agent and prints the answer.
 *
 * Promise: stdout holds a CNI result, a CNI error or nothing; the exit code says which (CNI spec 1.1.0, section 5). VERSION is
 * answered here, whatever stdin holds, because runtimes ask before the agent is up. When the agent cannot be reached, DEL is
 * written to the spool directory and succeeds, everything else fails with "try again later" within a second.
 *
 * One static C file: a process start is most of what an ADD costs, and an interpreter start would be half of it.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { INPUT_LIMIT = 1 << 20, ANSWER_LIMIT = 4 << 20, DEPTH_LIMIT = 64, VALUE_SIZE = 1024 };
enum { CONNECT_MS = 700, ANSWER_MS = 60000, STATUS_MS = 900, DELETE_MS = 10000, VERSION_MS = 500 };
enum { E_ENVIRONMENT = 4, E_IO = 5, E_DECODE = 6, E_CONFIG = 7, E_LATER = 11, E_UNAVAILABLE = 50 };

static const char *const VERSIONS[] = {"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};
enum { VERSION_COUNT = sizeof VERSIONS / sizeof *VERSIONS };

extern char **environ;

struct bytes {
    char *data;
    size_t size, room;
};

/* What the shim itself needs from the network configuration; the rest is the agent's business. */
struct conf {
    char version[VALUE_SIZE], name[VALUE_SIZE], socket[VALUE_SIZE], spool[VALUE_SIZE];
};

static void append(struct bytes *to, const void *data, size_t size) {
    if (to->room - to->size < size) {
        size_t room = (to->size + size) * 2 + 4096;
        char *grown = realloc(to->data, room);
        if (!grown) {
            fputs("fairway: out of memory\n", stderr);
            exit(1);
        }
        to->data = grown;
        to->room = room;
    }
    memcpy(to->data + to->size, data, size);
    to->size += size;
}

static long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000L + now.tv_nsec / 1000000L;
}

static int wait_for(int fd, short events, long until) {
    for (;;) {
        long left = until - now_ms();
        struct pollfd one = {.fd = fd, .events = events};
        int got = poll(&one, 1, left > 0 ? (int)left : 0);
        if (got >= 0 || errno != EINTR) return got;
    }
}

/* Reads to the end; -1 with errno set, EFBIG beyond `limit`, ETIMEDOUT after `until` (0: no limit in time). */
static int read_all(int fd, struct bytes *to, size_t limit, long until) {
    char chunk[65536];
    for (;;) {
        if (until && wait_for(fd, POLLIN, until) == 0) return errno = ETIMEDOUT, -1;
        ssize_t got = read(fd, chunk, sizeof chunk);
        if (got == 0) return 0;
        if (got < 0) {
            if (errno == EINTR || errno == EAGAIN) continue;
            return -1;
        }
        append(to, chunk, (size_t)got);
        if (to->size > limit) return errno = EFBIG, -1;
    }
}

static int write_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t done = write(fd, data, size);
        if (done < 0 && errno != EINTR) return -1;
        if (done > 0) data += done, size -= (size_t)done;
    }
    return 0;
}

/* ---- JSON (RFC 8259): a validating scanner that copies the top-level strings it is asked for ---- */

struct scan {
    const char *at, *end;
};

static void blank(struct scan *s) {
    while (s->at < s->end && strchr(" \t\r\n", *s->at) && *s->at) s->at++;
}

static int take(struct scan *s, char wanted) {
    if (s->at == s->end || *s->at != wanted) return 0;
    s->at++;
    return 1;
}

static int hex4(struct scan *s, unsigned *value) {
    *value = 0;
    for (int i = 0; i < 4; i++, s->at++) {
        if (s->at == s->end || !isxdigit((unsigned char)*s->at)) return 0;
        int c = tolower((unsigned char)*s->at);
        *value = *value * 16 + (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return 1;
}

static size_t utf8(unsigned code, char out[4]) {
    if (code < 0x80) return out[0] = (char)code, 1;
    if (code < 0x800) return out[0] = (char)(0xC0 | code >> 6), out[1] = (char)(0x80 | (code & 63)), 2;
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 63));
        out[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 63));
    out[2] = (char)(0x80 | (code >> 6 & 63));
    out[3] = (char)(0x80 | (code & 63));
    return 4;
}

static int escape(struct scan *s, char out[4], size_t *size) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (s->at == s->end) return 0;
    char c = *s->at++;
    const char *found = c ? strchr(from, c) : NULL;
    if (found) return out[0] = to[found - from], *size = 1;
    unsigned code, low;
    if (c != 'u' || !hex4(s, &code)) return 0;
    if (code >= 0xD800 && code < 0xDC00) {
        if (!take(s, '\\') || !take(s, 'u') || !hex4(s, &low) || low < 0xDC00 || low > 0xDFFF) return 0;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code <= 0xDFFF) {
        return 0;
    }
    *size = utf8(code, out);
    return 1;
}

/* Size of the UTF-8 sequence that starts at `at`, 0 if it is ill-formed (The Unicode Standard, table 3-7). */
static size_t sequence(const char *at, const char *end) {
    unsigned char lead = (unsigned char)*at, low = 0x80, high = 0xBF;
    if (lead < 0x80) return 1;
    size_t size = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    if (!size || (size_t)(end - at) < size) return 0;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    if ((unsigned char)at[1] < low || (unsigned char)at[1] > high) return 0;
    for (size_t i = 2; i < size; i++)
        if (((unsigned char)at[i] & 0xC0) != 0x80) return 0;
    return size;
}

/* One string; decoded into `out` (VALUE_SIZE bytes, "" if too long or with a NUL inside) unless that is NULL. */
static int string(struct scan *s, char *out) {
    size_t used = 0;
    int usable = 1;
    if (!take(s, '"')) return 0;
    while (s->at < s->end && *s->at != '"') {
        char piece[4];
        size_t size = 1;
        if ((unsigned char)*s->at < 0x20) return 0;
        if (*s->at != '\\') {
            if (!(size = sequence(s->at, s->end))) return 0;
            memcpy(piece, s->at, size);
            s->at += size;
        } else if (s->at++, !escape(s, piece, &size)) {
            return 0;
        }
        if (used + size >= VALUE_SIZE || !piece[0]) usable = 0;
        if (out && usable) memcpy(out + used, piece, size), used += size;
    }
    if (out) out[usable ? used : 0] = 0;
    return take(s, '"');
}

static int digits(struct scan *s) {
    const char *start = s->at;
    while (s->at < s->end && isdigit((unsigned char)*s->at)) s->at++;
    return s->at > start;
}

static int number(struct scan *s) {
    take(s, '-');
    if (!take(s, '0') && !digits(s)) return 0;
    if (take(s, '.') && !digits(s)) return 0;
    if (take(s, 'e') || take(s, 'E')) {
        if (!take(s, '+')) take(s, '-');
        return digits(s);
    }
    return 1;
}

static int word(struct scan *s, const char *text) {
    size_t size = strlen(text);
    if ((size_t)(s->end - s->at) < size || memcmp(s->at, text, size)) return 0;
    s->at += size;
    return 1;
}

static int value(struct scan *s, int depth);

static int list(struct scan *s, int depth) {
    blank(s);
    if (take(s, ']')) return 1;
    do {
        if (!value(s, depth)) return 0;
        blank(s);
    } while (take(s, ','));
    return take(s, ']');
}

/* Members up to the closing brace. With `conf`, the strings it wants are copied; keys match in any case, as Go's do. */
static int members(struct scan *s, int depth, struct conf *conf) {
    blank(s);
    if (take(s, '}')) return 1;
    do {
        char key[VALUE_SIZE], *out = NULL;
        blank(s);
        if (!string(s, key)) return 0;
        blank(s);
        if (!take(s, ':')) return 0;
        blank(s);
        if (conf && !strcasecmp(key, "cniVersion")) out = conf->version;
        if (conf && !strcasecmp(key, "name")) out = conf->name;
        if (conf && !strcasecmp(key, "agentSocket")) out = conf->socket;
        if (conf && !strcasecmp(key, "spoolDir")) out = conf->spool;
        if (s->at < s->end && *s->at == '"' ? !string(s, out) : !value(s, depth)) return 0;
        if (conf && (out == conf->socket || out == conf->spool) && !*out) return 0;
        blank(s);
    } while (take(s, ','));
    return take(s, '}');
}

static int value(struct scan *s, int depth) {
    if (depth > DEPTH_LIMIT) return 0;
    blank(s);
    if (s->at == s->end) return 0;
    if (*s->at == '"') return string(s, NULL);
    if (take(s, '{')) return members(s, depth + 1, NULL);
    if (take(s, '[')) return list(s, depth + 1);
    if (*s->at == '-' || isdigit((unsigned char)*s->at)) return number(s);
    return word(s, "true") || word(s, "false") || word(s, "null");
}

/* 1 if `input` is one JSON object and nothing else. What was found before a fault stays in `conf`. */
static int read_conf(const struct bytes *input, struct conf *conf) {
    struct scan s = {input->data, input->data + input->size};
    if (!input->size) return 0;
    blank(&s);
    if (!take(&s, '{') || !members(&s, 1, conf)) return 0;
    blank(&s);
    return s.at == s.end;
}

static const char *known_version(const struct conf *conf, const char *otherwise) {
    for (int i = 0; i < VERSION_COUNT; i++)
        if (!strcmp(conf->version, VERSIONS[i])) return VERSIONS[i];
    return otherwise;
}

/* ---- Answers ---- */

static void put_text(const char *text) {
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\') printf("\\%c", *c);
        else if (*c < 0x20 || *c >= 0x7F) printf("\\u%04x", *c < 0x20 ? *c : 0xFFFDu);
        else putchar(*c);
    }
}

__attribute__((format(printf, 3, 4))) static int fail(const struct conf *conf, int code, const char *format, ...) {
    char text[3 * VALUE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    printf("{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"", known_version(conf, "1.0.0"), code);
    put_text(text);
    puts("\"}");
    fflush(stdout);
    return 1;
}

static int print_versions(const struct conf *conf) {
    printf("{\"cniVersion\":\"%s\",\"supportedVersions\":[", known_version(conf, VERSIONS[VERSION_COUNT - 1]));
    for (int i = 0; i < VERSION_COUNT; i++) printf("%s\"%s\"", i ? "," : "", VERSIONS[i]);
    puts("]}");
    return fflush(stdout) ? 1 : 0;
}

/* ---- The agent ---- */

/* The environment as KEY=VALUE NUL ... NUL, then the configuration: what POST /v1/cni and the spool both hold. */
static struct bytes call_body(const struct bytes *input) {
    static const char *const others[] = {"TRACEPARENT=", "TRACESTATE=", "BAGGAGE="};
    struct bytes body = {0};
    for (char **entry = environ; *entry; entry++) {
        int ours = !strncmp(*entry, "CNI_", 4);
        for (size_t i = 0; i < sizeof others / sizeof *others; i++) ours |= !strncmp(*entry, others[i], strlen(others[i]));
        if (ours) append(&body, *entry, strlen(*entry) + 1);
    }
    append(&body, "", 1);
    append(&body, input->data, input->size);
    return body;
}

/* A full backlog answers EAGAIN at once on unix sockets, so waiting means trying again. */
static int dial(const char *path) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    long until = now_ms() + CONNECT_MS;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    memcpy(name.sun_path, path, strlen(path) + 1);
    while (connect(fd, (struct sockaddr *)&name, sizeof name) < 0) {
        int fault = errno;
        if ((fault != EAGAIN && fault != EINTR) || now_ms() > until) return close(fd), errno = fault, -1;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return fd;
}

static int send_all(int fd, const char *data, size_t size, long until) {
    while (size) {
        ssize_t done = send(fd, data, size, MSG_NOSIGNAL);
        if (done > 0) data += done, size -= (size_t)done;
        else if (errno != EINTR && errno != EAGAIN) return -1;
        else if (wait_for(fd, POLLOUT, until) == 0) return errno = ETIMEDOUT, -1;
    }
    return 0;
}

/* The value of a header, or NULL. `head` is NUL-terminated and starts with the status line. */
static const char *header(const char *head, const char *name) {
    size_t size = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, name, size) && line[size] == ':') return line + size + 1 + strspn(line + size + 1, " \t");
    }
    return NULL;
}

/* Prints the body of the agent's answer; the exit code, or -1 if it is no answer of an agent that could do the work. */
static int relay(struct bytes *answer) {
    append(answer, "", 1);
    char *split = strstr(answer->data, "\r\n\r\n");
    if (strncmp(answer->data, "HTTP/1.", 7) || !split) return -1;
    char *body = split + 4;
    *split = 0;
    const char *verdict = header(answer->data, "X-Fairway-Exit"), *length = header(answer->data, "Content-Length");
    if (!verdict || (*verdict != '0' && *verdict != '1') || header(answer->data, "Transfer-Encoding")) return -1;
    size_t size = answer->size - 1 - (size_t)(body - answer->data);
    if (length) {
        unsigned long long told = strtoull(length, NULL, 10);
        if (told > size) return -1;
        size = (size_t)told;
    }
    return write_all(STDOUT_FILENO, body, size) ? 1 : *verdict - '0';
}

/* The exit code of the call, or -1 with errno set if the agent did not do it. */
static int ask_agent(const char *path, const struct bytes *body, long patience) {
    /* HTTP/1.1 with "close": the answer ends with the connection. Chunked coding is refused, the agent never uses it here. */
    static const char request[] = "POST /v1/cni HTTP/1.1\r\nHost: fairway\r\nConnection: close\r\n"
                                  "Content-Type: application/octet-stream\r\nContent-Length: %zu\r\n\r\n";
    char head[sizeof request + 24];
    int size = snprintf(head, sizeof head, request, body->size), exit_code = -1, fault;
    long until = now_ms() + patience;
    struct bytes whole = {0}, answer = {0};
    int fd = dial(path);
    if (fd < 0) return -1;
    /* In one piece: the agent has a shorter way for a call that it sees whole (agent/fairway_agent/api/door.py). */
    append(&whole, head, (size_t)size);
    append(&whole, body->data, body->size);
    if (!send_all(fd, whole.data, whole.size, until) && !read_all(fd, &answer, ANSWER_LIMIT, until)) {
        exit_code = relay(&answer);
        errno = EPROTO;
    }
    fault = errno;
    free(whole.data);
    free(answer.data);
    close(fd);
    errno = fault;
    return exit_code;
}

/* ---- The spool ---- */

static int make_dirs(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        int failed = mkdir(path, 0700) && errno != EEXIST;
        *slash = '/';
        if (failed) return -1;
    }
    return mkdir(path, 0700) && errno != EEXIST ? -1 : 0;
}

/* FNV-1a over what identifies an attachment: a repeated DEL replaces its own record and the spool stays small. */
static uint64_t attachment_hash(const struct conf *conf) {
    const char *parts[] = {conf->name, getenv("CNI_CONTAINERID"), getenv("CNI_IFNAME")};
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < 3; i++) {
        for (const char *c = parts[i] ? parts[i] : ""; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211u;
        hash = (hash ^ 0xFF) * 1099511628211u;
    }
    return hash;
}

/* Temporary file, fsync, rename, fsync of the directory: the record is whole or absent, also after a power cut. */
static int spool(struct conf *conf, const struct bytes *body) {
    char temporary[64], final[64];
    if (make_dirs(conf->spool)) return -1;
    int dir = open(conf->spool, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) return -1;
    unsigned long long hash = attachment_hash(conf);
    snprintf(temporary, sizeof temporary, ".%016llx.%ld.tmp", hash, (long)getpid());
    snprintf(final, sizeof final, "%016llx.del", hash);
    int fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int failed = fd < 0 || write_all(fd, body->data, body->size) || fsync(fd);
    if (fd >= 0) failed |= close(fd) != 0;
    failed = failed || renameat(dir, temporary, dir, final) || fsync(dir);
    int fault = errno;
    if (failed) unlinkat(dir, temporary, 0);
    close(dir);
    errno = fault;
    return failed ? -1 : 0;
}

/* ---- Main ---- */

static int call(const char *command, struct conf *conf, const struct bytes *input) {
    int status = !strcmp(command, "STATUS"), delete = !strcmp(command, "DEL");
    if (strlen(conf->socket) >= sizeof((struct sockaddr_un *)0)->sun_path)
        return fail(conf, E_CONFIG, "agentSocket %s: longer than a unix socket path can be", conf->socket);
    struct bytes body = call_body(input);
    int done = ask_agent(conf->socket, &body, status ? STATUS_MS : delete ? DELETE_MS : ANSWER_MS);
    int fault = errno;
    if (done < 0 && delete) {
        done = spool(conf, &body);
        if (done < 0)
            fail(conf, E_LATER, "agent at %s: %s; and the deletion cannot be kept in %s: %s", conf->socket, strerror(fault),
                 conf->spool, strerror(errno));
    } else if (done < 0) {
        fail(conf, status ? E_UNAVAILABLE : E_LATER, "the fairway agent at %s does not answer: %s", conf->socket, strerror(fault));
    }
    free(body.data);
    return done < 0 ? 1 : done;
}

static int known_command(const char *command) {
    static const char *const commands[] = {"ADD", "DEL", "CHECK", "GC", "STATUS"};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(command, commands[i])) return 1;
    return 0;
}

int main(void) {
    struct conf conf = {.socket = "/run/fairway/agent.sock", .spool = "/var/lib/fairway/spool"};
    struct bytes input = {0};
    const char *command = getenv("CNI_COMMAND");
    int result;
    signal(SIGPIPE, SIG_IGN);
    if (!command || !*command) {
        fputs("fairway: a CNI plugin; container runtimes start it, see https://www.cni.dev\n", stderr);
        return fail(&conf, E_ENVIRONMENT, "CNI_COMMAND is not set");
    }
    if (!strcmp(command, "VERSION")) {
        if (!isatty(STDIN_FILENO)) read_all(STDIN_FILENO, &input, INPUT_LIMIT, now_ms() + VERSION_MS);
        read_conf(&input, &conf);
        result = print_versions(&conf);
    } else if (!known_command(command)) {
        result = fail(&conf, E_ENVIRONMENT, "CNI_COMMAND: %s is not known", command);
    } else if (read_all(STDIN_FILENO, &input, INPUT_LIMIT, 0)) {
        result = fail(&conf, E_IO, "cannot read the network configuration: %s", strerror(errno));
    } else if (!read_conf(&input, &conf)) {
        result = fail(&conf, E_DECODE, "the network configuration is no JSON object, or agentSocket or spoolDir is no path");
    } else {
        result = call(command, &conf, &input);
    }
    free(input.data);
    return result;
}
