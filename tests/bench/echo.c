/*
 * An echo server in C, for comparison: epoll(7), recv(2) and send(2) in one thread.
 *
 * It prints its port on 127.0.0.1 on the first line.  What a client does not take waits in a buffer
 * of the connection, and nothing more is read from it meanwhile.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 256 * 1024, SEND_BUFFER_BYTES = 256 * 1024, EVENTS = 128 };

struct connection {
    int fd;
    char *rest; /* what the client has not taken yet */
    size_t size, sent;
};

static int poller;
static char buffer[READ_BYTES];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void watch(int operation, struct connection *connection, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(poller, operation, connection->fd, &event))
        fail("epoll_ctl");
}

static void finish(struct connection *connection)
{
    close(connection->fd);
    free(connection->rest);
    free(connection);
}

static void welcome(int listening)
{
    int fd;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *connection = calloc(1, sizeof *connection);
        if (!connection)
            fail("calloc");
        connection->fd = fd;
        watch(EPOLL_CTL_ADD, connection, EPOLLIN);
    }
}

static void readable(struct connection *connection)
{
    ssize_t got = recv(connection->fd, buffer, sizeof buffer, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        finish(connection);
        return;
    }
    ssize_t sent = send(connection->fd, buffer, got, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        finish(connection);
        return;
    }
    if (sent < 0)
        sent = 0;
    if (sent < got) {
        connection->size = got - sent;
        connection->sent = 0;
        connection->rest = malloc(connection->size);
        if (!connection->rest)
            fail("malloc");
        memcpy(connection->rest, buffer + sent, connection->size);
        watch(EPOLL_CTL_MOD, connection, EPOLLOUT);
    }
}

static void writable(struct connection *connection)
{
    ssize_t sent = send(connection->fd, connection->rest + connection->sent,
                        connection->size - connection->sent, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN)
            finish(connection);
        return;
    }
    connection->sent += sent;
    if (connection->sent == connection->size) {
        free(connection->rest);
        connection->rest = NULL;
        watch(EPOLL_CTL_MOD, connection, EPOLLIN);
    }
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    int yes = 1, send_buffer = SEND_BUFFER_BYTES;
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    /* Accepted connections inherit both, as they do from echod's port. */
    setsockopt(listening, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(listening, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 4096) ||
        getsockname(listening, (struct sockaddr *)&address, &size))
        fail("listen");
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0)
        fail("epoll_create1");
    struct connection port = {.fd = listening};
    watch(EPOLL_CTL_ADD, &port, EPOLLIN);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    struct epoll_event events[EVENTS];
    for (;;) {
        int number = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < number; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection == &port)
                welcome(listening);
            else if (events[i].events & EPOLLOUT)
                writable(connection);
            else if (connection->rest)
                finish(connection); /* it is broken: only EPOLLOUT was asked for */
            else
                readable(connection);
        }
    }
}
