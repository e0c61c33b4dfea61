/* A bare TFTP server: what the kernel allows to a server in one thread, as a yardstick.
 *
 * One epoll loop, a connected socket for each transfer, one preadv and one sendmsg (UDP_SEGMENT)
 * for each window. It answers reads only, repeats nothing, checks next to nothing and must not be
 * used for anything but comparison: whatever a real server does besides (timers, confinement,
 * events, uploads) costs extra, and this shows how much.
 *
 * Compile with: cc -O2 -o server server.c; run as: server ADDRESS PORT FOLDER
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum opcode { RRQ = 1, WRQ, DATA, ACK, ERROR, OACK };

enum {
    HEADER = 4,
    MAX_BLKSIZE = 65464,
    MAX_SEGMENTS = 64,
    MAX_GSO_OCTETS = 65000,
    DOOR_BUFFER = 8 << 20, /* a thousand requests may come at once */
    AHEAD = 32768,         /* lock-step reads so much of a file at once */
};

struct transfer {
    int sock, file;
    int blksize, windowsize;
    uint64_t block; /* the last one acknowledged */
    uint64_t size;
    uint64_t ahead; /* where in the file `buffer` begins */
    size_t reach;   /* and how far it goes */
    uint8_t *buffer;
};

static int poller;
static struct sockaddr_in own;
static uint8_t packet[65536];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void put16(uint8_t *at, unsigned value)
{
    at[0] = value >> 8;
    at[1] = value;
}

static void end(struct transfer *t)
{
    close(t->sock);
    close(t->file);
    free(t->buffer);
    free(t);
}

/* -- lock-step: a few blocks are read at once, each is sent by itself -------------------------- */

static size_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void read_ahead(struct transfer *t, uint64_t offset)
{
    size_t blocks = AHEAD / t->blksize ? AHEAD / t->blksize : 1;
    t->reach = smaller(t->size, blocks * t->blksize);
    if (!t->buffer)
        t->buffer = malloc(HEADER + t->reach);
    t->ahead = offset;
    if (!t->buffer || pread(t->file, t->buffer + HEADER, t->reach, offset) < 0)
        die("read");
}

static void send_block(struct transfer *t)
{
    uint64_t offset = t->block * t->blksize;
    if (!t->buffer || offset - t->ahead >= t->reach)
        read_ahead(t, offset);
    /* The header goes over the end of the payload in front, which has been sent. */
    uint8_t *at = t->buffer + (offset - t->ahead);
    put16(at, DATA);
    put16(at + 2, t->block + 1);
    (void)!send(t->sock, at, HEADER + smaller(t->blksize, t->size - offset), 0);
}

/* -- windows ----------------------------------------------------------------------------------- */

static void send_joined(struct transfer *t, size_t octets)
{
    char control[CMSG_SPACE(sizeof(uint16_t))] = {0};
    struct iovec vector = {packet, octets};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    uint16_t size = HEADER + t->blksize;
    if (octets > size) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_UDP;
        header->cmsg_type = UDP_SEGMENT;
        header->cmsg_len = CMSG_LEN(sizeof size);
        memcpy(CMSG_DATA(header), &size, sizeof size);
    }
    (void)!sendmsg(t->sock, &message, 0);
}

static void send_window(struct transfer *t)
{
    int size = HEADER + t->blksize, most = MAX_GSO_OCTETS / size;
    most = most < 1 ? 1 : most > MAX_SEGMENTS ? MAX_SEGMENTS : most;
    uint64_t block = t->block + 1, last = t->size / t->blksize + 1;
    uint64_t stop = t->block + t->windowsize < last ? t->block + t->windowsize : last;
    while (block <= stop) {
        struct iovec slots[MAX_SEGMENTS];
        int count = 0;
        uint64_t first = block;
        for (; count < most && block <= stop; count++, block++) {
            put16(packet + count * size, DATA);
            put16(packet + count * size + 2, block);
            slots[count] = (struct iovec){packet + count * size + HEADER, t->blksize};
        }
        ssize_t octets = preadv(t->file, slots, count, (first - 1) * t->blksize);
        if (octets < 0)
            die("preadv");
        send_joined(t, octets + count * HEADER);
    }
}

static void send_next(struct transfer *t)
{
    (t->windowsize > 1 ? send_window : send_block)(t);
}

static void answer(struct transfer *t)
{
    uint8_t reply[516];
    ssize_t length = recv(t->sock, reply, sizeof reply, MSG_DONTWAIT);
    if (length < HEADER || reply[1] != ACK) {
        end(t);
        return;
    }
    uint16_t ahead = (reply[2] << 8 | reply[3]) - (uint16_t)t->block;
    t->block += ahead;
    if (t->block > t->size / t->blksize)
        end(t);
    else
        send_next(t);
}

/* -- the door ---------------------------------------------------------------------------------- */

static char *grant(char *at, const char *name, long long value)
{
    at += sprintf(at, "%s", name) + 1;
    return at + sprintf(at, "%lld", value) + 1;
}

/* Read the options, and write the OACK; gives its length, 2 if there is nothing to grant. */
static size_t negotiate(struct transfer *t, const char *at, const char *stop, uint8_t *oack)
{
    char *out = (char *)oack + 2;
    put16(oack, OACK);
    while (at < stop) {
        const char *value = at + strlen(at) + 1;
        if (value >= stop)
            break;
        int number = atoi(value);
        if (!strcasecmp(at, "blksize") && number >= 8)
            out = grant(out, "blksize", t->blksize = number > MAX_BLKSIZE ? MAX_BLKSIZE : number);
        else if (!strcasecmp(at, "windowsize") && number >= 1)
            out = grant(out, "windowsize", t->windowsize = number);
        else if (!strcasecmp(at, "tsize"))
            out = grant(out, "tsize", t->size);
        at = value + strlen(value) + 1;
    }
    return out - (char *)oack;
}

static void refuse(int door, const struct sockaddr_in *peer)
{
    static const uint8_t error[] = "\0\5\0\1not found";
    (void)!sendto(door, error, sizeof error, 0, (const struct sockaddr *)peer, sizeof *peer);
}

static int open_socket(const struct sockaddr_in *peer)
{
    struct sockaddr_in local = own;
    int sock = socket(AF_INET, SOCK_DGRAM, 0);
    local.sin_port = 0;
    if (sock < 0 || bind(sock, (struct sockaddr *)&local, sizeof local) ||
        connect(sock, (const struct sockaddr *)peer, sizeof *peer))
        die("socket");
    return sock;
}

static void begin(int door, char *request, ssize_t length, const struct sockaddr_in *peer)
{
    struct stat facts;
    uint8_t oack[512];
    request[length] = 0;
    if (length < 4 || request[1] != RRQ)
        return;
    const char *name = request + 2, *mode = name + strlen(name) + 1;
    int file = open(name, O_RDONLY);
    if (file < 0 || fstat(file, &facts)) {
        refuse(door, peer);
        return;
    }
    struct transfer *t = calloc(1, sizeof *t);
    *t = (struct transfer){.sock = open_socket(peer), .file = file, .blksize = 512,
                           .windowsize = 1, .size = facts.st_size};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = t};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, t->sock, &event))
        die("epoll_ctl");
    size_t size = negotiate(t, mode + strlen(mode) + 1, request + length, oack);
    if (size > 2)
        (void)!send(t->sock, oack, size, 0);
    else
        send_next(t);
}

static void open_door(int door)
{
    static char request[2048];
    struct sockaddr_in peer;
    socklen_t room = sizeof peer;
    ssize_t length;
    while ((length = recvfrom(door, request, sizeof request - 1, MSG_DONTWAIT,
                              (struct sockaddr *)&peer, &room)) >= 0)
        begin(door, request, length, &peer);
}

int main(int count, char **arguments)
{
    if (count != 4 || chdir(arguments[3]))
        die("server ADDRESS PORT FOLDER");
    own.sin_family = AF_INET;
    own.sin_port = htons(atoi(arguments[2]));
    inet_pton(AF_INET, arguments[1], &own.sin_addr);
    int door = socket(AF_INET, SOCK_DGRAM, 0), size = DOOR_BUFFER;
    if (setsockopt(door, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
        setsockopt(door, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (bind(door, (struct sockaddr *)&own, sizeof own))
        die("bind");
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN}, events[256];
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, door, &event))
        die("epoll");
    for (;;) {
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++)
            if (events[i].data.ptr)
                answer(events[i].data.ptr);
            else
                open_door(door);
    }
}
