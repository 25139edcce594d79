/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many bytes connections have carried, for lists of them (datapath/ebpf/socket_list.py). A program that no hook has:
 * user space runs it (BPF_PROG_TEST_RUN) in the Pod's network namespace, on a frame that is no packet but a list of
 * questions, into which the answers are written. sock_diag would tell the same (INET_DIAG_INFO), but waits for whoever
 * holds the socket in a system call, which a program can do for as long as it likes; nothing waits here.
 */
#ifndef PODLANE_CARRIED_H
#define PODLANE_CARRIED_H

#include "sockets.h"

/* As MOST_ASKED of socket_messages.py: so many fit into the page that a frame may have. */
#define MOST_ASKED 48

struct carried {
	__u32 theirs[4], ours[4]; /* addresses; IPv4 as ::ffff:a.b.c.d; big endian */
	__u16 their_port, our_port; /* big endian */
	__u16 version; /* 4 or 6 */
	__u16 known; /* 1: there is such a socket, so that what follows is an answer */
	__u64 acknowledged, received; /* bytes that the other end has, and that this one has, in order */
};

struct asking {
	struct __sk_buff *skb;
	struct settings *settings;
};

static long look_at_socket(__u32 i, struct asking *asking)
{
	__u32 at = sizeof(struct ethhdr) + i * sizeof(struct carried);
	struct packet packet = {};
	struct bpf_tcp_sock *tcp;
	struct carried carried;
	struct bpf_sock *found;

	if (bpf_skb_load_bytes(asking->skb, at, &carried, sizeof(carried)))
		return 1;
	packet.version = carried.version;
	__builtin_memcpy(packet.source, carried.theirs, 16);
	__builtin_memcpy(packet.destination, carried.ours, 16);
	packet.source_port = carried.their_port;
	packet.destination_port = carried.our_port;
	found = socket_at(asking->skb, &packet, packet.destination_port, asking->settings);
	if (!found)
		return 0;
	tcp = bpf_tcp_sock(found);
	if (tcp) {
		carried.known = 1;
		carried.acknowledged = tcp->bytes_acked;
		carried.received = tcp->bytes_received;
	}
	bpf_sk_release(found);
	bpf_skb_store_bytes(asking->skb, at, &carried, sizeof(carried), 0);
	return 0;
}

#endif
