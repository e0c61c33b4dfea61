/* A neutral load generator for TFTP servers: many clients in one epoll loop, one JSON object out.
 *
 * It plays plain clients that know RFC 1350, 2347, 2348, 2349 and 7440 and nothing of the server
 * that they measure: each transfer has a port of its own, repeats what it sent last after a second
 * of silence, counts every DATA that it did not need, and checks the length of every file and the
 * content of one in n. It is written to cost little: one receive and one send per block in
 * lock-step, recvmmsg or GRO where there are windows, and no wait but for the network.
 *
 * Compile with: cc -O2 -o load load.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum opcode { RRQ = 1, WRQ, DATA, ACK, ERROR, OACK };

enum {
    HEADER = 4,
    DEFAULT_BLKSIZE = 512,
    MAX_BLKSIZE = 65464,
    BATCH = 64,             /* datagrams that one recvmmsg or sendmmsg moves */
    JOINED = 8,             /* the same where each may be many that GRO has joined */
    INBOUND = 65536,
    MAX_GSO_OCTETS = 65000, /* an IP packet, less some headroom */
    RECEIVE_BUFFER = 4 << 20,
    GLANCE_US = 100000,     /* a client alone looks at its clock at least so often */
};

/* What the command line says. */
static struct {
    struct sockaddr_in server;
    const char *name;       /* with %d for a number */
    int names;              /* how many numbers there are */
    int clients, transfers;
    int blksize, windowsize; /* 0: not asked for */
    bool tsize, offload, put, missing;
    long long size;         /* of each file; -1: whatever comes */
    const char *content;    /* a file with what must come, or with what is put */
    int check;              /* compare the content of one transfer in so many; 0: of none */
    double timeout, limit;
    int tries;
} options = {
    .names = 1, .clients = 1, .transfers = 1, .size = -1, .timeout = 1.0, .limit = 120.0, .tries = 8,
};

struct client {
    int fd;                 /* -1: has nothing to do */
    int number;             /* of the transfer */
    int tries;
    bool answered;          /* the server has a TID, and the socket is connected to it */
    bool gap_told;          /* an ACK for the present gap is on its way */
    int blksize, windowsize;
    uint64_t block;         /* get: the last one received in order; put: the last one acknowledged */
    uint64_t bytes;
    int pending;            /* blocks received since the last ACK */
    double started, deadline;
    struct client *sooner, *later; /* by deadline: they all wait equally long, so a list will do */
};

static struct client *clients;
static struct client deadlines;  /* the head of the ring */
static int poller, running, begun;
static double now;
static const uint8_t *content;
static size_t content_size;

static struct {
    long transfers, failures, retransmissions, duplicates, gaps, strays;
    uint64_t bytes;
    int blksize, windowsize; /* as granted last */
    char reason[200];        /* of the first failure */
    double *latencies;
} result;

static uint8_t inbound[BATCH][INBOUND] __attribute__((aligned(64)));
static uint8_t outbound[INBOUND];

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* -- deadlines ------------------------------------------------------------------------------- */

static void forget_deadline(struct client *c)
{
    c->sooner->later = c->later;
    c->later->sooner = c->sooner;
}

static void append_deadline(struct client *c)
{
    c->deadline = now + options.timeout;
    c->later = &deadlines;
    c->sooner = deadlines.sooner;
    c->sooner->later = c;
    deadlines.sooner = c;
}

/* Something came that was worth waiting for. */
static void progressed(struct client *c)
{
    forget_deadline(c);
    append_deadline(c);
    c->tries = 0;
}

/* -- sending --------------------------------------------------------------------------------- */

static void put16(uint8_t *at, unsigned value)
{
    at[0] = value >> 8;
    at[1] = value;
}

static unsigned get16(const uint8_t *at)
{
    return at[0] << 8 | at[1];
}

static size_t add_option(char *at, const char *name, long long value)
{
    size_t length = sprintf(at, "%s", name) + 1;
    return length + sprintf(at + length, "%lld", value) + 1;
}

static void send_request(struct client *c)
{
    uint8_t packet[1024];
    char *at = (char *)packet + 2;
    put16(packet, options.put ? WRQ : RRQ);
    at += snprintf(at, 400, options.name, c->number % options.names) + 1;
    at += sprintf(at, "octet") + 1;
    if (options.blksize)
        at += add_option(at, "blksize", options.blksize);
    if (options.windowsize)
        at += add_option(at, "windowsize", options.windowsize);
    if (options.tsize)
        at += add_option(at, "tsize", options.put ? (long long)content_size : 0);
    if (sendto(c->fd, packet, at - (char *)packet, 0, (struct sockaddr *)&options.server,
               sizeof options.server) < 0 && errno != EAGAIN && errno != ECONNREFUSED)
        die("sendto");
}

/* A send that fails is a datagram that is lost: the timer sees to it. */
static void send_ack(struct client *c)
{
    uint8_t packet[HEADER];
    put16(packet, ACK);
    put16(packet + 2, c->block);
    (void)!send(c->fd, packet, sizeof packet, MSG_NOSIGNAL);
    c->pending = 0;
}

static void send_joined(struct client *c, size_t octets, int size)
{
    char control[CMSG_SPACE(sizeof(uint16_t))] = {0};
    struct iovec vector = {outbound, octets};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (octets > (size_t)size) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_UDP;
        header->cmsg_type = UDP_SEGMENT;
        header->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        uint16_t segment = size;
        memcpy(CMSG_DATA(header), &segment, sizeof segment);
    }
    (void)!sendmsg(c->fd, &message, MSG_NOSIGNAL);
}

static void send_apart(struct client *c, size_t octets, int size)
{
    struct mmsghdr messages[BATCH] = {0};
    struct iovec vectors[BATCH];
    int count = 0;
    for (size_t at = 0; at < octets; at += size, count++) {
        vectors[count].iov_base = outbound + at;
        vectors[count].iov_len = octets - at < (size_t)size ? octets - at : (size_t)size;
        messages[count].msg_hdr.msg_iov = &vectors[count];
        messages[count].msg_hdr.msg_iovlen = 1;
    }
    (void)!sendmmsg(c->fd, messages, count, MSG_NOSIGNAL);
}

static uint64_t last_block(const struct client *c)
{
    return content_size / c->blksize + 1;
}

/* Put: the window behind the last acknowledged block. */
static void send_window(struct client *c)
{
    int size = HEADER + c->blksize;
    int most = MAX_GSO_OCTETS / size;
    most = most < 1 ? 1 : most > BATCH ? BATCH : most;
    uint64_t block = c->block + 1, end = c->block + c->windowsize;
    end = end < last_block(c) ? end : last_block(c);
    while (block <= end) {
        size_t octets = 0;
        for (int count = 0; count < most && block <= end; count++, block++) {
            size_t offset = (block - 1) * c->blksize, left = content_size - offset;
            size_t payload = left < (size_t)c->blksize ? left : (size_t)c->blksize;
            put16(outbound + octets, DATA);
            put16(outbound + octets + 2, block);
            memcpy(outbound + octets + HEADER, content + offset, payload);
            octets += HEADER + payload;
        }
        (options.offload ? send_joined : send_apart)(c, octets, size);
    }
}

/* -- the life of a transfer ------------------------------------------------------------------ */

static void start(struct client *c)
{
    int on = 1, size = RECEIVE_BUFFER;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    struct timeval glance = {.tv_usec = GLANCE_US};
    *c = (struct client){.fd = socket(AF_INET, SOCK_DGRAM, 0), .number = begun++};
    if (c->fd < 0)
        die("socket");
    if (options.clients == 1 && setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &glance, sizeof glance))
        die("SO_RCVTIMEO");
    if (options.windowsize > 1) {
        if (setsockopt(c->fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) &&
            setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size))
            die("SO_RCVBUF");
        if (options.offload && !options.put && setsockopt(c->fd, SOL_UDP, UDP_GRO, &on, sizeof on))
            die("UDP_GRO");
    }
    if (options.clients > 1 && epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event))
        die("epoll_ctl");
    c->blksize = DEFAULT_BLKSIZE;
    c->windowsize = 1;
    c->started = clock_now();
    running++;
    append_deadline(c);
    send_request(c);
}

static void stop(struct client *c)
{
    forget_deadline(c);
    close(c->fd);
    c->fd = -1;
    running--;
    if (begun < options.transfers)
        start(c);
}

static void finish(struct client *c)
{
    double end = clock_now();
    result.latencies[result.transfers++] = end - c->started;
    result.bytes += c->bytes;
    result.blksize = c->blksize;
    result.windowsize = c->windowsize;
    stop(c);
}

__attribute__((format(printf, 2, 3)))
static void fail(struct client *c, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (!result.failures++)
        vsnprintf(result.reason, sizeof result.reason, format, arguments);
    va_end(arguments);
    stop(c);
}

/* Whether the content is looked at in this transfer. */
static bool is_checked(const struct client *c)
{
    return content && options.check && c->number % options.check == 0;
}

/* -- receiving: each gives whether the transfer goes on --------------------------------------- */

static bool take_error(struct client *c, const uint8_t *packet, size_t length)
{
    if (options.missing) {
        finish(c);
        return false;
    }
    int room = length > HEADER ? length - HEADER : 0;
    fail(c, "ERROR %u %.*s", get16(packet + 2), room, packet + HEADER);
    return false;
}

/* What was granted must have been asked for, and be no more than that. */
static bool take_options(struct client *c, const uint8_t *packet, size_t length)
{
    const char *at = (const char *)packet + 2, *end = (const char *)packet + length;
    while (at < end) {
        const char *value = at + strnlen(at, end - at) + 1;
        if (value >= end || !memchr(value, 0, end - value)) {
            fail(c, "an OACK that is cut off");
            return false;
        }
        long long number = atoll(value);
        if (!strcasecmp(at, "blksize") && number >= 8 && number <= options.blksize)
            c->blksize = number;
        else if (!strcasecmp(at, "windowsize") && number >= 1 && number <= options.windowsize)
            c->windowsize = number;
        else if (strcasecmp(at, "tsize") || !options.tsize) {
            fail(c, "granted, but not asked for: %s %s", at, value);
            return false;
        }
        at = value + strlen(value) + 1;
    }
    return true;
}

static bool take_oack(struct client *c, const uint8_t *packet, size_t length)
{
    if (c->block)
        return true; /* A late copy. */
    if (!take_options(c, packet, length))
        return false;
    progressed(c);
    if (options.put)
        send_window(c);
    else
        send_ack(c);
    return true;
}

static bool take_last(struct client *c)
{
    send_ack(c);
    if (options.size >= 0 && c->bytes != (uint64_t)options.size)
        fail(c, "%llu octets, not %lld", (unsigned long long)c->bytes, options.size);
    else
        finish(c);
    return false;
}

/* Not the block that is due: too early, or once more. */
static void take_stray(struct client *c, unsigned ahead)
{
    if (ahead - 1 < 0x7fff)
        result.gaps++;
    else
        result.duplicates++;
    /* RFC 7440, section 4: tell the sender where to go on; once is enough. */
    if (!c->gap_told)
        send_ack(c);
    c->gap_told = true;
}

static bool take_data(struct client *c, const uint8_t *packet, size_t length)
{
    size_t payload = length - HEADER;
    uint16_t ahead = get16(packet + 2) - (uint16_t)c->block;
    if (ahead != 1) {
        take_stray(c, ahead);
        return true;
    }
    if (payload > (size_t)c->blksize) {
        fail(c, "DATA with %zu octets, where blksize is %d", payload, c->blksize);
        return false;
    }
    if (is_checked(c) && (c->bytes + payload > content_size ||
                          memcmp(packet + HEADER, content + c->bytes, payload))) {
        fail(c, "wrong content in block %llu", (unsigned long long)c->block + 1);
        return false;
    }
    c->block++;
    c->bytes += payload;
    c->gap_told = false;
    progressed(c);
    if (payload < (size_t)c->blksize)
        return take_last(c);
    if (++c->pending >= c->windowsize)
        send_ack(c);
    return true;
}

static bool take_ack(struct client *c, const uint8_t *packet)
{
    uint16_t ahead = get16(packet + 2) - (uint16_t)c->block;
    bool opens = c->block == 0 && ahead == 0 && c->bytes == 0;
    if (!opens && (ahead == 0 || ahead > c->windowsize)) {
        result.duplicates++;
        return true;
    }
    c->block += ahead;
    c->bytes = c->block * c->blksize;
    if (c->block == last_block(c)) {
        c->bytes = content_size;
        finish(c);
        return false;
    }
    progressed(c);
    send_window(c);
    return true;
}

static bool take(struct client *c, const uint8_t *packet, size_t length)
{
    unsigned opcode = length < HEADER ? 0 : get16(packet);
    if (opcode == ERROR)
        return take_error(c, packet, length);
    if (opcode == OACK)
        return take_oack(c, packet, length);
    if (opcode == (options.put ? ACK : DATA))
        return options.put ? take_ack(c, packet) : take_data(c, packet, length);
    fail(c, "a packet with opcode %u and %zu octets", opcode, length);
    return false;
}

/* Nothing is there, or the peer's port is closed for the moment: the timer sees to either. */
static void no_datagram(void)
{
    if (errno != EAGAIN && errno != ECONNREFUSED && errno != EINTR)
        die("receive");
}

/* On loopback a port is soon another's, and what was sent to the last one still comes. */
static bool is_opening(const uint8_t *packet, size_t length)
{
    unsigned opcode = length < HEADER ? 0 : get16(packet);
    if (opcode == (options.put ? ACK : DATA))
        return get16(packet + 2) == !options.put;
    return opcode == OACK || opcode == ERROR;
}

static void receive_first(struct client *c, int flags)
{
    struct sockaddr_in peer;
    socklen_t room = sizeof peer;
    ssize_t length = recvfrom(c->fd, inbound[0], INBOUND, flags, (struct sockaddr *)&peer, &room);
    if (length < 0) {
        no_datagram();
        return;
    }
    if (!is_opening(inbound[0], length)) {
        result.strays++;
        return;
    }
    /* RFC 1350, section 4: the port that answers is the server's TID. */
    if (connect(c->fd, (struct sockaddr *)&peer, room))
        die("connect");
    c->answered = true;
    take(c, inbound[0], length);
}

static void receive_one(struct client *c, int flags)
{
    ssize_t length = recv(c->fd, inbound[0], INBOUND, flags);
    if (length < 0)
        no_datagram();
    else
        take(c, inbound[0], length);
}

static size_t joined_size(struct msghdr *message, size_t length)
{
    struct cmsghdr *header = CMSG_FIRSTHDR(message);
    int size;
    if (!header || header->cmsg_level != SOL_UDP || header->cmsg_type != UDP_GRO)
        return length;
    memcpy(&size, CMSG_DATA(header), sizeof size);
    return size;
}

static bool take_joined(struct client *c, const uint8_t *octets, size_t length, size_t size)
{
    for (size_t at = 0; at < length; at += size)
        if (!take(c, octets + at, length - at < size ? length - at : size))
            return false;
    return true;
}

static void receive_many(struct client *c, int flags)
{
    static struct mmsghdr messages[BATCH];
    static struct iovec vectors[BATCH];
    static char controls[BATCH][CMSG_SPACE(sizeof(int))];
    int most = options.offload ? JOINED : BATCH;
    for (int i = 0; i < most; i++) {
        vectors[i] = (struct iovec){inbound[i], INBOUND};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
        if (options.offload) {
            messages[i].msg_hdr.msg_control = controls[i];
            messages[i].msg_hdr.msg_controllen = sizeof controls[i];
        }
    }
    int count = recvmmsg(c->fd, messages, most, flags | MSG_WAITFORONE, NULL);
    if (count < 0) {
        no_datagram();
        return;
    }
    for (int i = 0; i < count; i++) {
        size_t length = messages[i].msg_len;
        if (!take_joined(c, inbound[i], length, joined_size(&messages[i].msg_hdr, length)))
            return;
    }
}

static void receive(struct client *c)
{
    /* A client alone waits in its receive; in company, epoll has waited. */
    int flags = options.clients == 1 ? 0 : MSG_DONTWAIT;
    if (!c->answered)
        receive_first(c, flags);
    else if (c->windowsize > 1 && !options.put)
        receive_many(c, flags);
    else
        receive_one(c, flags);
}

/* -- the loop -------------------------------------------------------------------------------- */

static void repeat(struct client *c)
{
    if (c->tries >= options.tries) {
        fail(c, "silence after block %llu", (unsigned long long)c->block);
        return;
    }
    int tries = c->tries + 1;
    progressed(c);
    c->tries = tries;
    result.retransmissions++;
    if (!c->answered)
        send_request(c);
    else if (options.put)
        send_window(c);
    else
        send_ack(c);
}

static void expire(void)
{
    while (deadlines.later != &deadlines && deadlines.later->deadline <= now)
        repeat(deadlines.later);
}

static void wait_for_many(void)
{
    struct epoll_event events[256];
    double left = deadlines.later->deadline - now;
    int count = epoll_wait(poller, events, 256, left > 0 ? left * 1000 + 1 : 0);
    if (count < 0 && errno != EINTR)
        die("epoll_wait");
    now = clock_now();
    for (int i = 0; i < count; i++)
        receive(events[i].data.ptr);
}

static void give_up(void)
{
    options.transfers = begun; /* Nothing new is started. */
    while (deadlines.later != &deadlines)
        fail(deadlines.later, "the time is up");
}

static double run(void)
{
    double start_time = now = clock_now();
    deadlines.sooner = deadlines.later = &deadlines;
    for (int i = 0; i < options.clients && begun < options.transfers; i++)
        start(&clients[i]);
    while (running) {
        if (options.clients == 1) {
            receive(&clients[0]);
            now = clock_now();
        } else {
            wait_for_many();
        }
        if (now - start_time > options.limit)
            give_up();
        else
            expire();
    }
    return clock_now() - start_time;
}

/* -- in and out ------------------------------------------------------------------------------ */

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(double share)
{
    if (!result.transfers)
        return 0;
    return result.latencies[(long)(share * (result.transfers - 1) + 0.5)];
}

static void print_text(const char *text)
{
    putchar('"');
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || (unsigned char)*text > '~' || *text == '"' || *text == '\\')
            printf("\\u%04x", (unsigned char)*text);
        else
            putchar(*text);
    putchar('"');
}

static void print(double seconds)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    qsort(result.latencies, result.transfers, sizeof *result.latencies, by_size);
    printf("{\"transfers\": %ld, \"failures\": %ld, \"retransmissions\": %ld, ", result.transfers,
           result.failures, result.retransmissions);
    printf("\"duplicates\": %ld, \"gaps\": %ld, \"strays\": %ld, \"bytes\": %llu, ",
           result.duplicates, result.gaps, result.strays, (unsigned long long)result.bytes);
    printf("\"seconds\": %.6f, ", seconds);
    printf("\"p50\": %.6f, \"p99\": %.6f, \"max\": %.6f, ", percentile(0.5), percentile(0.99),
           percentile(1));
    printf("\"blksize\": %d, \"windowsize\": %d, ", result.blksize, result.windowsize);
    printf("\"cpu_user\": %.4f, \"cpu_system\": %.4f, ",
           used.ru_utime.tv_sec + used.ru_utime.tv_usec / 1e6,
           used.ru_stime.tv_sec + used.ru_stime.tv_usec / 1e6);
    printf("\"reason\": ");
    print_text(result.reason);
    printf("}\n");
}

static const char HELP[] =
    "load --server ADDRESS:PORT --name NAME [options]\n"
    "  --name NAME       the file; %d stands for the number of the transfer\n"
    "  --names N         numbers go from 0 to N-1, and again (1)\n"
    "  --clients N       so many at once (1)\n"
    "  --transfers N     so many in all (1)\n"
    "  --blksize N       ask for it; without this and the next two, no option is sent\n"
    "  --windowsize N\n"
    "  --tsize\n"
    "  --offload         receive with UDP_GRO; with --put, send with UDP_SEGMENT\n"
    "  --put             write the file that --content names\n"
    "  --missing         the answer must be an ERROR\n"
    "  --size N          every file must have so many octets\n"
    "  --content FILE    what must come, or what is put\n"
    "  --check N         compare the content of one transfer in N (0: of none)\n"
    "  --timeout S       repeat after so many seconds of silence (1)\n"
    "  --tries N         repeat so often (8)\n"
    "  --limit S         end after so many seconds; what runs then has failed (120)\n";

static void usage(const char *fault)
{
    fprintf(stderr, "load: %s\n%s", fault, HELP);
    exit(2);
}

static void parse_server(char *text)
{
    char *colon = strrchr(text, ':');
    if (!colon)
        usage("--server wants ADDRESS:PORT");
    *colon = 0;
    options.server.sin_family = AF_INET;
    options.server.sin_port = htons(atoi(colon + 1));
    if (inet_pton(AF_INET, text, &options.server.sin_addr) != 1)
        usage("--server wants an IPv4 address");
}

static void parse(int count, char **arguments)
{
    static const struct option known[] = {
        {"server", 1, 0, 's'}, {"name", 1, 0, 'n'}, {"names", 1, 0, 'N'}, {"clients", 1, 0, 'c'},
        {"transfers", 1, 0, 't'}, {"blksize", 1, 0, 'b'}, {"windowsize", 1, 0, 'w'},
        {"tsize", 0, 0, 'z'}, {"offload", 0, 0, 'o'}, {"put", 0, 0, 'p'}, {"missing", 0, 0, 'm'},
        {"size", 1, 0, 'S'}, {"content", 1, 0, 'C'}, {"check", 1, 0, 'k'}, {"timeout", 1, 0, 'T'},
        {"tries", 1, 0, 'r'}, {"limit", 1, 0, 'L'}, {0},
    };
    int option;
    while ((option = getopt_long(count, arguments, "", known, NULL)) >= 0) {
        switch (option) {
        case 's': parse_server(optarg); break;
        case 'n': options.name = optarg; break;
        case 'N': options.names = atoi(optarg); break;
        case 'c': options.clients = atoi(optarg); break;
        case 't': options.transfers = atoi(optarg); break;
        case 'b': options.blksize = atoi(optarg); break;
        case 'w': options.windowsize = atoi(optarg); break;
        case 'z': options.tsize = true; break;
        case 'o': options.offload = true; break;
        case 'p': options.put = true; break;
        case 'm': options.missing = true; break;
        case 'S': options.size = atoll(optarg); break;
        case 'C': options.content = optarg; break;
        case 'k': options.check = atoi(optarg); break;
        case 'T': options.timeout = atof(optarg); break;
        case 'r': options.tries = atoi(optarg); break;
        case 'L': options.limit = atof(optarg); break;
        default: usage("unknown option");
        }
    }
    if (!options.name || !options.server.sin_family || optind < count)
        usage("--server and --name are needed");
    if (options.clients < 1 || options.transfers < 1 || options.names < 1)
        usage("--clients, --transfers and --names are at least 1");
    if (options.blksize > MAX_BLKSIZE || (options.put && !options.content))
        usage("--blksize is at most 65464, and --put needs --content");
}

static void map_content(void)
{
    struct stat facts;
    int fd = open(options.content, O_RDONLY);
    if (fd < 0 || fstat(fd, &facts))
        die(options.content);
    content_size = facts.st_size;
    content = mmap(NULL, content_size ? content_size : 1, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (content == MAP_FAILED)
        die(options.content);
    close(fd);
}

int main(int count, char **arguments)
{
    parse(count, arguments);
    if (options.content)
        map_content();
    clients = calloc(options.clients, sizeof *clients);
    result.latencies = calloc(options.transfers, sizeof *result.latencies);
    poller = epoll_create1(0);
    if (!clients || !result.latencies || poller < 0)
        die("start");
    print(run());
    return result.failures ? 1 : 0;
}
