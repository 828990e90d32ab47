/*
 * A PC/SC reader whose card is another process: an IFD handler (PC/SC Lite's IFD API, version 3) with one slot.
 *
 * pcscd loads it with DEVICENAME "ushield:PATH". It listens on the Unix socket PATH; a connection is a card in the slot,
 * its end is the card's removal. A message in either direction is a 16-bit big-endian length and that many bytes. From
 * here one byte is an order (0 off, 1 on, 2 reset, 4 "send your ATR", the only one that is answered) and anything longer
 * a command APDU, which is answered by the response APDU. These are the messages of vsmartcard's vpcd, which has two
 * slots a reader, listens on every network interface and cannot be configured otherwise.
 *
 * pcscd serialises all calls for one reader except the polling thread's, which only waits.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* The types and values of ifdhandler.h and wintypes.h, so that no development package is needed to build this. */
typedef unsigned long DWORD;
typedef unsigned char UCHAR;
typedef long RESPONSECODE;
typedef struct { DWORD Protocol, Length; } SCARD_IO_HEADER;

enum { POWER_UP = 500, POWER_DOWN = 501, RESET = 502 };
enum {
    SUCCESS = 0, UNKNOWN_TAG = 600, POWER_ACTION_FAILED = 608, COMMUNICATION_ERROR = 612, NOT_SUPPORTED = 614,
    PRESENT = 615, NOT_PRESENT = 616, NO_SUCH_DEVICE = 617, INSUFFICIENT_BUFFER = 618
};
enum {
    TAG_ATR = 0x0303, TAG_ATR_STRING = 0x90303, TAG_SLOT_THREAD_SAFE = 0x0FAC, TAG_THREAD_SAFE = 0x0FAD,
    TAG_SLOTS_NUMBER = 0x0FAE, TAG_SIMULTANEOUS_ACCESS = 0x0FAF, TAG_STOP_POLLING_THREAD = 0x0FB2,
    TAG_POLLING_THREAD = 0x0FB3
};
enum { OFF = 0, ON = 1, WARM_RESET = 2, ASK_ATR = 4 };
enum { READERS = 16, ANSWER_S = 10, MAX_MESSAGE = 0xFFFF };

#define EXPORT __attribute__((visibility("default")))
static const char PREFIX[] = "ushield:";

struct reader {
    int used, listener, stop;
    int card;    /* the connection, or -1 */
    int removed; /* how many more waits must begin before another card is accepted */
};
static struct reader readers[READERS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of `card` and `removed`, which the polling thread reads */

static struct reader *reader_of(DWORD lun) {
    size_t number = lun >> 16;
    return number < READERS && readers[number].used ? &readers[number] : NULL;
}

static int card_of(struct reader *reader) {
    pthread_mutex_lock(&lock);
    int card = reader->card;
    pthread_mutex_unlock(&lock);
    return card;
}

static void drop_card(struct reader *reader) {
    pthread_mutex_lock(&lock);
    if (reader->card >= 0) {
        shutdown(reader->card, SHUT_RDWR); /* wakes the polling thread, which may hold on to it */
        close(reader->card);
        reader->card = -1;
        reader->removed = 2;
    }
    pthread_mutex_unlock(&lock);
}

static int send_all(int to, const UCHAR *data, size_t size) {
    while (size) {
        ssize_t sent = send(to, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return -1;
        data += sent;
        size -= (size_t)sent;
    }
    return 0;
}

static int receive_all(int from, UCHAR *data, size_t size) {
    while (size) {
        ssize_t got = recv(from, data, size, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return -1;
        data += got;
        size -= (size_t)got;
    }
    return 0;
}

static int send_message(struct reader *reader, const UCHAR *data, size_t size) {
    UCHAR head[2] = {(UCHAR)(size >> 8), (UCHAR)size};
    int card = card_of(reader);
    if (card < 0 || size > MAX_MESSAGE) return -1;
    return send_all(card, head, 2) || send_all(card, data, size) ? -1 : 0;
}

static int order(struct reader *reader, UCHAR what) { return send_message(reader, &what, 1); }

/* Returns the message's size, or -1. A message that does not fit is read to its end, and is an error. */
static long receive_message(struct reader *reader, UCHAR *data, size_t room) {
    static const size_t SCRAP = 256;
    UCHAR head[2], scrap[256];
    int card = card_of(reader);
    if (card < 0 || receive_all(card, head, 2)) return -1;
    size_t size = (size_t)head[0] << 8 | head[1];
    if (size <= room) return receive_all(card, data, size) ? -1 : (long)size;
    for (size_t left = size; left;) {
        size_t part = left < SCRAP ? left : SCRAP;
        if (receive_all(card, scrap, part)) return -1;
        left -= part;
    }
    return -1;
}

/* A card answers an APDU when its user has pressed a button; only the ATR has a time limit. */
static void set_timeout(struct reader *reader, long seconds) {
    struct timeval limit = {seconds, 0};
    int card = card_of(reader);
    if (card >= 0) setsockopt(card, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

static RESPONSECODE read_atr(struct reader *reader, DWORD *length, UCHAR *atr) {
    set_timeout(reader, ANSWER_S);
    long size = order(reader, ASK_ATR) ? -1 : receive_message(reader, atr, *length);
    set_timeout(reader, 0);
    *length = size < 0 ? 0 : (DWORD)size;
    if (size < 0) drop_card(reader);
    return size < 0 ? COMMUNICATION_ERROR : size ? SUCCESS : POWER_ACTION_FAILED; /* an empty ATR: the card is mute */
}

EXPORT RESPONSECODE IFDHCreateChannelByName(DWORD lun, char *device) {
    size_t number = lun >> 16;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (number >= READERS || readers[number].used || strncmp(device, PREFIX, sizeof PREFIX - 1)) return NO_SUCH_DEVICE;
    const char *path = device + sizeof PREFIX - 1;
    if (strlen(path) >= sizeof address.sun_path) return NO_SUCH_DEVICE;
    strcpy(address.sun_path, path);
    unlink(path); /* left by a daemon that was killed */
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (listener < 0 || stop < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1)) {
        if (listener >= 0) close(listener);
        if (stop >= 0) close(stop);
        return COMMUNICATION_ERROR;
    }
    readers[number] = (struct reader){.used = 1, .listener = listener, .stop = stop, .card = -1};
    return SUCCESS;
}

EXPORT RESPONSECODE IFDHCreateChannel(DWORD lun, DWORD channel) {
    (void)lun, (void)channel;
    return NO_SUCH_DEVICE; /* a reader needs its DEVICENAME */
}

EXPORT RESPONSECODE IFDHCloseChannel(DWORD lun) {
    struct reader *reader = reader_of(lun);
    if (!reader) return NO_SUCH_DEVICE;
    drop_card(reader);
    close(reader->listener);
    close(reader->stop);
    reader->used = 0;
    return SUCCESS;
}

/*
 * Waits until a card is inserted or removed, the time is over, or stop_polling() is called.
 *
 * pcscd must see the reader empty between two cards, however soon the second one comes. Its status thread asks for the
 * presence between two waits, but other code asks as well and ignores the answer: so the reader stays empty until a
 * whole round of that thread, from one wait to the next, lies behind the removal.
 */
static RESPONSECODE wait_for_event(DWORD lun, int timeout_ms) {
    struct reader *reader = reader_of(lun);
    if (!reader) return NO_SUCH_DEVICE;
    pthread_mutex_lock(&lock);
    int card = reader->card, removed = reader->removed;
    if (removed) reader->removed--;
    pthread_mutex_unlock(&lock);
    if (removed > 1) return SUCCESS;
    struct pollfd watched[2] = {
        {.fd = card >= 0 ? card : reader->listener, .events = card >= 0 ? POLLRDHUP : POLLIN},
        {.fd = reader->stop, .events = POLLIN},
    };
    uint64_t count;
    if (poll(watched, 2, timeout_ms) > 0 && watched[1].revents && read(reader->stop, &count, sizeof count) < 0) return SUCCESS;
    return SUCCESS;
}

static RESPONSECODE stop_polling(DWORD lun) {
    struct reader *reader = reader_of(lun);
    uint64_t one = 1;
    return reader && write(reader->stop, &one, sizeof one) == sizeof one ? SUCCESS : NO_SUCH_DEVICE;
}

static RESPONSECODE give(DWORD *length, UCHAR *value, const void *what, size_t size) {
    if (*length < size) return INSUFFICIENT_BUFFER;
    memcpy(value, what, size);
    *length = size;
    return SUCCESS;
}

EXPORT RESPONSECODE IFDHGetCapabilities(DWORD lun, DWORD tag, DWORD *length, UCHAR *value) {
    static const UCHAR ONE = 1, ZERO = 0, MANY = READERS;
    RESPONSECODE (*const wait)(DWORD, int) = wait_for_event;
    RESPONSECODE (*const stop)(DWORD) = stop_polling;
    struct reader *reader = reader_of(lun);
    switch (tag) {
    case TAG_SLOTS_NUMBER: return give(length, value, &ONE, 1);
    case TAG_SIMULTANEOUS_ACCESS: return give(length, value, &MANY, 1);
    case TAG_THREAD_SAFE: return give(length, value, &ONE, 1);
    case TAG_SLOT_THREAD_SAFE: return give(length, value, &ZERO, 1);
    case TAG_POLLING_THREAD: return give(length, value, &wait, sizeof wait);
    case TAG_STOP_POLLING_THREAD: return give(length, value, &stop, sizeof stop);
    case TAG_ATR: case TAG_ATR_STRING: return reader ? read_atr(reader, length, value) : NO_SUCH_DEVICE;
    default: *length = 0; return UNKNOWN_TAG;
    }
}

EXPORT RESPONSECODE IFDHSetCapabilities(DWORD lun, DWORD tag, DWORD length, UCHAR *value) {
    (void)lun, (void)tag, (void)length, (void)value;
    return NOT_SUPPORTED;
}

EXPORT RESPONSECODE IFDHSetProtocolParameters(DWORD lun, DWORD protocol, UCHAR flags, UCHAR one, UCHAR two, UCHAR three) {
    (void)lun, (void)protocol, (void)flags, (void)one, (void)two, (void)three;
    return SUCCESS; /* whole APDUs are exchanged, in any protocol */
}

EXPORT RESPONSECODE IFDHPowerICC(DWORD lun, DWORD action, UCHAR *atr, DWORD *length) {
    struct reader *reader = reader_of(lun);
    if (!reader) return NO_SUCH_DEVICE;
    if (action != POWER_UP && action != POWER_DOWN && action != RESET) return NOT_SUPPORTED;
    if (order(reader, action == POWER_DOWN ? OFF : action == POWER_UP ? ON : WARM_RESET)) {
        drop_card(reader);
        if (length) *length = 0;
        return COMMUNICATION_ERROR;
    }
    return action == POWER_DOWN ? SUCCESS : read_atr(reader, length, atr);
}

EXPORT RESPONSECODE IFDHTransmitToICC(DWORD lun, SCARD_IO_HEADER sent, UCHAR *command, DWORD size, UCHAR *answer,
                                      DWORD *length, SCARD_IO_HEADER *received) {
    struct reader *reader = reader_of(lun);
    long got = reader && !send_message(reader, command, size) ? receive_message(reader, answer, *length) : -1;
    if (got < 0) {
        if (reader) drop_card(reader);
        *length = 0;
        return COMMUNICATION_ERROR;
    }
    *length = (DWORD)got;
    if (received) received->Protocol = sent.Protocol;
    return SUCCESS;
}

EXPORT RESPONSECODE IFDHControl(DWORD lun, DWORD code, UCHAR *in, DWORD in_size, UCHAR *out, DWORD out_size, DWORD *length) {
    (void)lun, (void)code, (void)in, (void)in_size, (void)out, (void)out_size;
    if (length) *length = 0;
    return NOT_SUPPORTED;
}

EXPORT RESPONSECODE IFDHICCPresence(DWORD lun) {
    struct reader *reader = reader_of(lun);
    if (!reader) return NO_SUCH_DEVICE;
    struct pollfd card = {.fd = card_of(reader), .events = POLLRDHUP};
    if (card.fd >= 0 && (poll(&card, 1, 0) > 0)) drop_card(reader);
    pthread_mutex_lock(&lock);
    if (reader->card < 0 && !reader->removed) reader->card = accept4(reader->listener, NULL, NULL, SOCK_CLOEXEC);
    int present = reader->card >= 0;
    pthread_mutex_unlock(&lock);
    return present ? PRESENT : NOT_PRESENT;
}
