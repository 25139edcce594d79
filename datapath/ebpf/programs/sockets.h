/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets of the network namespace whose packets the programs see. */
#ifndef PODLANE_SOCKETS_H
#define PODLANE_SOCKETS_H

#include "policy.h"

/* The socket of ours that a packet to this port is for. */
static __always_inline struct bpf_sock *socket_at(struct __sk_buff *skb, const struct packet *packet, __u16 port,
						  const struct settings *settings)
{
	struct bpf_sock_tuple ends = {};

	if (packet->version == 4) {
		ends.ipv4.saddr = packet->source[3];
		ends.ipv4.daddr = packet->destination[3];
		ends.ipv4.sport = packet->source_port;
		ends.ipv4.dport = port;
		return bpf_skc_lookup_tcp(skb, &ends, sizeof(ends.ipv4), (__s64)settings->sockets, 0);
	}
	__builtin_memcpy(ends.ipv6.saddr, packet->source, 16);
	__builtin_memcpy(ends.ipv6.daddr, packet->destination, 16);
	ends.ipv6.sport = packet->source_port;
	ends.ipv6.dport = port;
	return bpf_skc_lookup_tcp(skb, &ends, sizeof(ends.ipv6), (__s64)settings->sockets, 0);
}

/* The socket of ours that a packet is for, which the caller lets go: with a mesh that of its proxy, if nat leads there. */
static __always_inline struct bpf_sock *receiver(struct __sk_buff *skb, const struct packet *packet,
						 const struct settings *settings)
{
	struct bpf_sock *sk = socket_at(skb, packet, packet->destination_port, settings);

	if (!settings->proxy_port || (sk && sk->state != BPF_TCP_LISTEN))
		return sk;
	if (sk)
		bpf_sk_release(sk);
	return socket_at(skb, packet, bpf_htons(settings->proxy_port), settings);
}

#endif
